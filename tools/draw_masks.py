#!/usr/bin/env python
"""Draw the masks of E-FPN-BS beside their images and true objects, with the area under the ROC curve of each.

python tools/draw_masks.py --config hituav/faster_rcnn_lite0_efpnbs_taught_rfla --weights model_final.pth \
    --json instances_val.json --images val/ --count 4 --output output/masks.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances
from torch import nn

from d2tiny import model_zoo
from d2tiny.cli.common import guarded
from d2tiny.data.coco.arrays import load_ground_truth
from d2tiny.data.coco.boxes import xywh_to_xyxy
from d2tiny.data.loading.images import read_image
from d2tiny.modeling.meta_arch.foreground import area_under_roc, foreground
from d2tiny.modeling.necks import EFPNBS
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.visualization import Boxes2D, draw_boxes

SCALE = 2


def masks(model: nn.Module, image: np.ndarray) -> dict[str, torch.Tensor]:
    """Return the masks (H, W) of an image by level.

    Args:
        model: a detector in evaluation mode.
        image: (H, W, 3) uint8 in the model's order of channels.

    Raises:
        ConfigError: the model has no E-FPN-BS with masks.
    """
    necks = [module for module in model.modules() if isinstance(module, EFPNBS)]
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    for neck in necks:
        neck.training = True  # it keeps its masks then, and has no layer that behaves differently
    try:
        with torch.no_grad():
            model([{"image": tensor, "height": image.shape[0], "width": image.shape[1]}])
        found = {level: mask[0].float().mean(dim=0) for neck in necks for level, mask in neck.masks.items()}
    finally:
        for neck in necks:
            neck.training, neck.masks = False, {}
    if not found:
        raise ConfigError("This model has no E-FPN-BS with masks (model.backbone.neck with fbsm=true).")
    return found


def draw(model: nn.Module, image: np.ndarray, boxes: np.ndarray, stride: int = 4) -> np.ndarray:
    """Draw an image with its true objects, and the mask of its finest level.

    Args:
        model: a detector in evaluation mode.
        image: (H, W, 3) uint8 RGB.
        boxes: (G, 4) true objects, XYXY in px.
        stride: of that level.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    found = masks(model, image)
    level = min(found)
    mask = found[level].cpu()
    truth = Instances(image.shape[:2])
    truth.gt_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    inside, valid = (x[0] for x in foreground([truth], stride, (mask.shape[0], mask.shape[1])))
    auc = area_under_roc(mask[inside], mask[valid & ~inside])
    heat = cv2.applyColorMap((255 * mask.numpy()).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    heat = cv2.resize(heat, None, fx=stride, fy=stride, interpolation=cv2.INTER_NEAREST)
    heat = np.ascontiguousarray(heat[: image.shape[0], : image.shape[1]])
    items = Boxes2D(boxes, np.zeros(len(boxes), dtype=np.int64))
    left = draw_boxes(image, items, ["true objects"], scale=SCALE)
    title = f"mask of {level}, {mask.min():.2f} to {mask.max():.2f}, AUC {auc:.2f}"
    right = draw_boxes(heat, items, ["true objects"], title=title, scale=SCALE)
    height = max(len(left), len(right))
    left, right = (np.pad(x, ((0, height - len(x)), (0, 4), (0, 0)), constant_values=25) for x in (left, right))
    return np.concatenate((left, right), axis=1)


def _examples(path: Path, images: Path, count: int) -> list[tuple[Path, np.ndarray]]:
    """Return images of a json with their boxes (G, 4), spread from few to many objects.

    Raises:
        DatasetError: no image has an object.
    """
    truth = load_ground_truth(path)
    counts = np.bincount(truth.image[~truth.ignore], minlength=len(truth.image_ids))
    chosen = [image for image in np.argsort(counts, kind="stable").tolist() if counts[image]]
    if not chosen:
        raise DatasetError(f"{path}: no image with objects.")
    indices = np.unique(np.linspace(0, len(chosen) - 1, count).astype(int)).tolist()
    objects = [(chosen[i], ~truth.ignore & (truth.image == chosen[i])) for i in indices]
    return [(images / truth.file_names[image], xywh_to_xyxy(truth.boxes[own])) for image, own in objects]


def _draw_file(args: argparse.Namespace) -> None:
    predictor = DefaultPredictor(model_zoo.get_cfg(args.config, args.weights, args.opts))
    panels = [
        draw(predictor.model, read_image(path), boxes) for path, boxes in _examples(args.json, args.images, args.count)
    ]
    width = max(panel.shape[1] for panel in panels)
    panels = [np.pad(p, ((0, 6), (0, width - p.shape[1]), (0, 0)), constant_values=25) for p in panels]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.output), np.concatenate(panels)[:, :, ::-1])
    print(f"Picture: {args.output}")


def main() -> int:
    """Draw some images of a dataset and write the picture to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--json", type=Path, required=True, help="COCO json of the images")
    parser.add_argument("--images", type=Path, required=True, help="their folder")
    parser.add_argument("--count", type=int, default=4, help="number of images, from few to many objects")
    parser.add_argument("--output", type=Path, required=True, help="a .jpg or .png file")
    parser.add_argument("--opts", nargs="*", default=[], help="overrides of the config")
    args = parser.parse_args()
    if args.output.suffix.lower() not in (".jpg", ".png"):
        parser.error(f"--output {args.output}: must end in .jpg or .png")
    return guarded(lambda: _draw_file(args))


if __name__ == "__main__":
    raise SystemExit(main())
