"""A scene of bright squares, and a detector that finds them exactly: red ones are of class 0, blue ones of class 1."""

from __future__ import annotations

import functools
from unittest import mock

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from d2tiny import model_zoo
from d2tiny.inference import TiledPredictor

CONFIG = "quick/yolo11_n"
DARK, LIGHT = 30, 230


class Squares(torch.nn.Module):
    """The detector; ``inputs`` has the shapes (h, w) of the images that it was given, a list a batch."""

    def __init__(self, input_format="BGR"):
        super().__init__()
        self.red = 0 if input_format == "RGB" else 2
        self.inputs = []

    def forward(self, batch):
        self.inputs.append([tuple(item["image"].shape[1:]) for item in batch])
        return [{"instances": self.find(item)} for item in batch]

    def find(self, item):
        image = item["image"].numpy()
        boxes, classes, scores = [], [], []
        for number, channel in enumerate((self.red, 2 - self.red)):
            light = (image[channel] > (DARK + LIGHT) / 2).astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(light, connectivity=4)
            for x, y, w, h, area in stats[1:].tolist():
                boxes.append((x, y, x + w, y + h))
                classes.append(number)
                scores.append(0.5 + min(area, 4000) / 10_000)  # a part of a square has a lower score
        height, width = image.shape[1:]
        scale = torch.tensor((item["width"] / width, item["height"] / height) * 2)
        result = Instances((item["height"], item["width"]))
        result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) * scale)
        result.scores, result.pred_classes = torch.tensor(scores), torch.tensor(classes, dtype=torch.int64)
        return result


def scene(width, height, boxes, seed=0):
    """Draw squares (x0, y0, x1, y1, class) on dark noise; (H, W, 3) uint8 RGB."""
    image = np.random.default_rng(seed).integers(0, DARK, (height, width, 3), dtype=np.uint8)
    for x0, y0, x1, y1, number in boxes:
        image[y0:y1, x0:x1, 2 * number] = LIGHT
    return image


def random_boxes(width, height, count, seed=0, largest=40):
    """Return squares that do not touch, and are not within 2 px of each other."""
    rng = np.random.default_rng(seed)
    taken, boxes = np.zeros((height, width), np.bool_), []
    for _ in range(20 * count):
        if len(boxes) == count:
            break
        w, h = (int(v) for v in rng.integers(3, largest + 1, 2))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        area = taken[max(0, y - 2) : y + h + 2, max(0, x - 2) : x + w + 2]
        if not area.any():
            area[:] = True
            boxes.append((x, y, x + w, y + h, int(rng.integers(2))))
    return boxes


@functools.cache
def _cfg():
    return model_zoo.get_cfg(CONFIG, "", device="cpu")


def squares_cfg(**inputs):
    """Return a config; ``inputs`` are keys of ``cfg.INPUT``."""
    cfg = _cfg().clone()
    for key, value in inputs.items():
        cfg.INPUT[key] = value
    return cfg


def predictor(tile=128, overlap=64, *, cfg=None, **options):
    """Return a predictor of squares, and its detector."""
    cfg = squares_cfg() if cfg is None else cfg
    with mock.patch("detectron2.engine.defaults.build_model", lambda cfg: Squares(cfg.INPUT.FORMAT)):
        result = TiledPredictor(cfg, tile, overlap, **options)
    return result, result.model


def found_squares(found):
    """Return boxes and classes of SceneDetections or Instances, as :func:`random_boxes` gives them, sorted."""
    if isinstance(found, Instances):
        boxes, classes = found.pred_boxes.tensor.numpy(), found.pred_classes.numpy()
    else:
        boxes, classes = found.boxes, found.classes
    data = np.column_stack((boxes, classes)).round(6)  # means of equal sides may differ in the last bits
    return data[np.lexsort(data.T)]


def true_squares(boxes):
    """Return what :func:`found_squares` is to be."""
    data = np.array(boxes, np.float64).reshape(-1, 5)
    return data[np.lexsort(data.T)]
