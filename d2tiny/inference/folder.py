"""Predict image files: annotated pictures and one COCO-style json."""

from __future__ import annotations

import glob
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from tqdm import tqdm

from d2tiny.data.coco.boxes import box_xyxy_to_xywh
from d2tiny.data.coco.writer import write_coco
from d2tiny.data.datasets.register import class_names
from d2tiny.data.loading.headers import IMAGE_SUFFIXES
from d2tiny.data.loading.images import read_image
from d2tiny.data.loading.stretch import StretchLike, make_stretch
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.weights import load_weights
from d2tiny.visualization import Boxes2D, draw_boxes

__all__ = ["collect_images", "dataset_classes", "predict_folder"]

logger = logging.getLogger(__name__)

# Full colour resolution: subsampled colours would wash out lines of one pixel.
_JPEG = [
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]


def collect_images(inputs: Sequence[str]) -> list[Path]:
    """Turn files, folders and globs into a sorted list of image files.

    Raises:
        DatasetError: an input that matches nothing.
    """
    files: set[Path] = set()
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            found = [f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES]
        elif path.exists():
            found = [path]
        else:
            found = [
                Path(f)
                for f in glob.glob(text, recursive=True)  # noqa: PTH207  absolute patterns too
                if Path(f).suffix.lower() in IMAGE_SUFFIXES
            ]
        if not found:
            raise DatasetError(f"{text}: no image here (looked for {', '.join(sorted(IMAGE_SUFFIXES))}).")
        files.update(found)
    return sorted(files)


def dataset_classes(name: str, num_classes: int) -> list[str]:
    """Return a dataset's class names, or numbers where the dataset is unknown or absent."""
    classes: list[str] = []
    try:
        classes = class_names(name)
    except DatasetError as err:
        logger.warning("Class names are unknown: %s", err)
    return classes if len(classes) == num_classes else [f"class {i}" for i in range(num_classes)]


def _targets(files: Sequence[Path], output: Path) -> list[Path]:
    """Name the picture of each input; inputs of one name (from two folders) get different ones.

    Raises:
        ConfigError: a picture would overwrite an input.
    """
    inputs = {file.resolve() for file in files}
    taken: set[Path] = set()
    targets = []
    for file in files:
        target, number = output / f"{file.stem}.jpg", 2
        while target in taken:
            target, number = output / f"{file.stem}_{number}.jpg", number + 1
        if target.resolve() in inputs:
            raise ConfigError(f"--output {output}: {target.name} would overwrite an input; choose another folder.")
        taken.add(target)
        targets.append(target)
    return targets


def predict_folder(
    cfg: CfgNode,
    inputs: Sequence[str],
    output: Path,
    *,
    score: float = 0.3,
    bf16: bool = False,
    stretch: StretchLike = None,
    progress: bool = True,
) -> list[str]:
    """Predict all images.

    Args:
        cfg: as from ``d2tiny.model_zoo.get_cfg``, with weights.
        inputs: files, folders, globs.
        output: folder; gets ``<image name>.jpg`` for each image and ``detections.json`` (COCO with scores; boxes XYWH
            in the image's own pixels).
        score: lowest score that is drawn and written, in [0, 1].
        bf16: compute convolutions and linear layers in bfloat16, which is faster on processors and GPUs that have it.
        stretch: scale of images that are not 8-bit, see :func:`~d2tiny.data.loading.images.read_image`; None refuses
            them.
        progress: show a bar.

    Returns:
        One message for each image that could not be read; the others are done all the same.

    Raises:
        ConfigError: a score outside [0, 1], a stretch that is none, or an output that would overwrite an input.
        CheckpointError: weights that do not fit.
        DatasetError: an input that matches nothing.
    """
    if not 0 <= score <= 1:
        raise ConfigError(f"--score must be in [0, 1], got {score}.")
    scale = make_stretch(stretch)
    files = collect_images(inputs)
    output.mkdir(parents=True, exist_ok=True)
    targets = _targets(files, output)
    cfg = cfg.clone()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = score
    weights, cfg.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS, ""
    predictor = DefaultPredictor(cfg)
    if weights:  # strictly: weights of another config would leave parts of the model at random
        load_weights(predictor.model, weights)
    if bf16:  # a layout that bfloat16 convolutions prefer
        predictor.model.to(memory_format=torch.channels_last)
    device = torch.device(cfg.MODEL.DEVICE).type
    names = dataset_classes(cfg.DATASETS.TEST[0], cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    result: dict[str, list[Any]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
    }
    failed = []
    bar = tqdm(zip(files, targets, strict=True), total=len(files), desc="predict", unit="img", disable=not progress)
    # Around all images: autocast keeps the weights that it has cast until it is left.
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        for number, (path, target) in enumerate(bar, start=1):
            try:
                image = read_image(path, "BGR", stretch=scale)
            except (DatasetError, ImportError) as err:
                failed.append(str(err))
                continue
            found = predictor(image)["instances"].to("cpu")
            boxes = found.pred_boxes.tensor.numpy()
            items = Boxes2D(boxes, found.pred_classes.numpy(), found.scores.numpy())
            picture = draw_boxes(np.ascontiguousarray(image[:, :, ::-1]), items, names, title=path.name)
            if not cv2.imwrite(str(target), picture[:, :, ::-1], _JPEG):
                failed.append(f"{target}: cannot write this picture")
            height, width = image.shape[:2]
            result["images"].append({"id": number, "file_name": str(path), "width": width, "height": height})
            for box, cls, value in zip(boxes.tolist(), items.classes.tolist(), found.scores.tolist(), strict=True):
                x, y, w, h = box_xyxy_to_xywh(box)
                result["annotations"].append(
                    {
                        "id": len(result["annotations"]) + 1,
                        "image_id": number,
                        "category_id": cls + 1,
                        "bbox": [round(v, 2) for v in (x, y, w, h)],
                        "area": round(w * h, 2),
                        "score": round(value, 4),
                        "iscrowd": 0,
                    }
                )
    write_coco(result, output / "detections.json")
    return failed
