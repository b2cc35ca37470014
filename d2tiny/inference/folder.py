"""Predict image files: annotated pictures and one COCO-style json."""

from __future__ import annotations

import glob
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from tqdm import tqdm

from d2tiny.data.coco.boxes import box_xyxy_to_xywh
from d2tiny.data.coco.entries import shown
from d2tiny.data.coco.writer import write_coco
from d2tiny.data.datasets.register import class_names
from d2tiny.data.loading.headers import IMAGE_SUFFIXES
from d2tiny.data.loading.images import read_image
from d2tiny.data.loading.stretch import StretchLike, make_stretch
from d2tiny.inference.preview import write_picture
from d2tiny.utils.env import advise_on_bf16
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.weights import load_weights
from d2tiny.visualization import Boxes2D, draw_boxes

__all__ = ["collect_images", "dataset_classes", "predict_folder"]

logger = logging.getLogger(__name__)

_WRITE_PERIOD = 30.0  # seconds


def collect_images(inputs: Sequence[str]) -> list[Path]:
    """Turn files, folders and globs into a sorted list of image files.

    Raises:
        DatasetError: an input that matches nothing, or is no name.
    """
    files: set[Path] = set()
    for text in inputs:
        try:
            found = _images_of(text)
        except (OSError, ValueError) as err:  # no rights, or no name of a file
            raise DatasetError(f"{shown(text)}: cannot look for images here ({shown(err)}).") from err
        if not found:
            raise DatasetError(f"{shown(text)}: no image here (looked for {', '.join(sorted(IMAGE_SUFFIXES))}).")
        files.update(found)
    return sorted(files)


def _images_of(text: str) -> list[Path]:
    """Return the images of a folder or a glob, or a file, whatever it is called."""
    path = Path(text)
    if path.is_dir():
        return [f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES]
    if path.exists():
        return [path]
    found = map(Path, glob.glob(text, recursive=True))  # noqa: PTH207  absolute patterns too
    return [f for f in found if f.suffix.lower() in IMAGE_SUFFIXES]


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
        One message for each image that could not be read, predicted or drawn; the others are done all the same.

    Raises:
        ConfigError: a score outside [0, 1], a stretch that is none, or an output that would overwrite an input or
            cannot be written to.
        CheckpointError: weights that do not fit.
        DatasetError: an input that matches nothing.
    """
    if not 0 <= score <= 1:
        raise ConfigError(f"--score must be in [0, 1], got {score}.")
    scale = make_stretch(stretch)
    files = collect_images(inputs)
    output.mkdir(parents=True, exist_ok=True)
    if not os.access(output, os.W_OK | os.X_OK):
        raise ConfigError(f"--output {output}: no right to write there; choose another folder.")
    targets = _targets(files, output)
    cfg = cfg.clone()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = score
    weights, cfg.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS, ""
    predictor = DefaultPredictor(cfg)
    if weights:  # strictly: weights of another config would leave parts of the model at random
        load_weights(predictor.model, weights)
    device = torch.device(cfg.MODEL.DEVICE).type
    if bf16:  # a layout that bfloat16 convolutions prefer
        predictor.model.to(memory_format=torch.channels_last)
        if advice := advise_on_bf16(device):
            logger.warning("--bf16: %s", advice)
    names = list(cfg.D2TINY.CLASSES) or dataset_classes(cfg.DATASETS.TEST[0], cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    result = _Detections(output / "detections.json", names)
    bar = tqdm(zip(files, targets, strict=True), total=len(files), desc="predict", unit="img", disable=not progress)
    # Around all images: autocast keeps the weights that it has cast until it is left.
    with torch.autocast(device, torch.bfloat16, enabled=bf16), result:
        for number, (path, target) in enumerate(bar, start=1):
            try:
                image = read_image(path, "BGR", stretch=scale)
                boxes, found = _predict_one(predictor, image)
                result.add(number, path, image, boxes, found)
                _draw(image, Boxes2D(boxes, found.pred_classes.numpy(), found.scores.numpy()), names, path, target)
            except (DatasetError, ImportError) as err:
                result.failed.append(str(err))
            except OSError as err:
                result.failed.append(f"{target}: cannot write this picture: {err.strerror or err}")
            except (MemoryError, torch.cuda.OutOfMemoryError) as err:
                result.failed.append(_too_large(path, err))
            result.write_now_and_then()
    return result.failed


def _predict_one(predictor: DefaultPredictor, image: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], Instances]:
    """Return the boxes (N, 4), XYXY in pixels, and all that was found.

    Raises:
        MemoryError: the image does not fit into memory; PyTorch says so on the CPU with a RuntimeError.
    """
    try:
        found = predictor(image)["instances"].to("cpu")
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as err:
        if "memory" in str(err).lower():
            raise MemoryError(str(err)) from err
        raise
    return found.pred_boxes.tensor.numpy(), found


def _too_large(path: Path, err: BaseException) -> str:
    """Return what to do about an image that does not fit into memory; frees what is cached."""
    torch.cuda.empty_cache()
    reason = str(err).splitlines()[0] if str(err) else "MemoryError"
    return (
        f"{path}: this image does not fit into memory ({reason}). "
        "Cut it with d2tiny tile, or take a machine with more memory."
    )


def _draw(image: np.ndarray[Any, Any], items: Boxes2D, names: list[str], path: Path, target: Path) -> None:
    """Write the picture of an image, whole or not at all."""
    picture = draw_boxes(np.ascontiguousarray(image[:, :, ::-1]), items, names, title=path.name)
    write_picture(picture, target)


class _Detections:
    """What was found, as COCO json; written however the ``with`` block ends, so that no failure loses it."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self._path = path
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
        self._written = time.monotonic()
        self.failed: list[str] = []

    def __enter__(self) -> _Detections:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._write(self._path)
        except OSError as err:
            other = Path(tempfile.mkdtemp(prefix="d2tiny-")) / self._path.name
            self._write(other)
            self.failed.append(f"{self._path}: {err.strerror or err}. The detections are in {other}; move them.")
            logger.warning("%s", self.failed[-1])

    def _write(self, path: Path) -> None:
        content = {"images": self._images, "annotations": self._annotations, "categories": self._categories}
        write_coco(content, path)
        self._written = time.monotonic()

    def write_now_and_then(self) -> None:
        """Write every half minute: a process that the system ends cannot write any more."""
        if time.monotonic() - self._written > _WRITE_PERIOD:
            try:
                self._write(self._path)
            except OSError:  # told at the end
                self._written = time.monotonic()

    def add(
        self, number: int, path: Path, image: np.ndarray[Any, Any], boxes: np.ndarray[Any, Any], found: Instances
    ) -> None:
        """Add the detections of an image; boxes (N, 4) are XYXY in its pixels."""
        height, width = image.shape[:2]
        self._images.append({"id": number, "file_name": str(path), "width": width, "height": height})
        classes, scores = found.pred_classes.tolist(), found.scores.tolist()
        for box, cls, value in zip(boxes.tolist(), classes, scores, strict=True):
            x, y, w, h = box_xyxy_to_xywh(box)
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": number,
                    "category_id": cls + 1,
                    "bbox": [round(v, 2) for v in (x, y, w, h)],
                    "area": round(w * h, 2),
                    "score": round(value, 4),
                    "iscrowd": 0,
                }
            )
