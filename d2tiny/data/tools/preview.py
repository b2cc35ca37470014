"""Draw what augmentations do to the images of a dataset."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.data import transforms as T

from d2tiny.data.loading.loader import StreamMapper
from d2tiny.data.loading.mapper import TinyDatasetMapper
from d2tiny.data.loading.mosaic import MosaicMapper
from d2tiny.data.loading.stretch import StretchLike, make_stretch
from d2tiny.data.transforms import (
    BoxCopyPaste,
    GuardedScale,
    ObjectCrop,
    Photometric,
    RandomAffine,
    RandomQuarterTurn,
)
from d2tiny.visualization import Boxes2D, draw_boxes

__all__ = ["DEFAULT_AUGMENTATIONS", "augmentation_sheet"]

_SIDE = 380  # px, side of a cell

Steps = Sequence[T.Augmentation | T.Transform] | TinyDatasetMapper

DEFAULT_AUGMENTATIONS: dict[str, Steps] = {
    "original": [],
    "ObjectCrop 160": [ObjectCrop((160, 160), object_prob=1.0)],
    "BoxCopyPaste": [BoxCopyPaste(prob=1.0, copies=20)],
    "GuardedScale": [GuardedScale((0.5, 2.0), min_object=4.0)],
    "RandomQuarterTurn": [RandomQuarterTurn()],
    "RandomAffine": [RandomAffine(scale=(0.5, 1.5), degrees=10, shear=5)],
    "Photometric": [Photometric(prob=1.0)],
    "Mosaic": MosaicMapper(is_train=True, size=320, max_iter=1),
    "Mosaic, MixUp": MosaicMapper(is_train=True, size=320, max_iter=1, mixup_prob=1.0),
    "all": [
        BoxCopyPaste(prob=1.0, copies=20),
        ObjectCrop((160, 160), object_prob=1.0),
        GuardedScale((0.8, 1.6)),
        RandomQuarterTurn(),
        Photometric(prob=1.0),
    ],
}


def _cell(result: Mapping[str, Any], classes: Sequence[str], title: str) -> np.ndarray:
    """Return an augmented image with its boxes, without ignored ones, scaled to a cell (_SIDE, _SIDE, 3) uint8."""
    image = np.ascontiguousarray(result["image"].numpy().transpose(1, 2, 0))
    instances = result["instances"]
    keep = ~instances.gt_ignore.numpy()
    boxes = Boxes2D(instances.gt_boxes.tensor.numpy()[keep], instances.gt_classes.numpy()[keep])
    scale = max(1, round(_SIDE / max(image.shape[:2])))
    height, width = image.shape[:2]
    drawn = draw_boxes(image, boxes, classes, title=f"{title}, {width}x{height}", scale=scale)
    factor = _SIDE / max(drawn.shape[1], drawn.shape[0])
    drawn = cv2.resize(drawn, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    cell = np.full((_SIDE, _SIDE, 3), 245, dtype=np.uint8)
    cell[: drawn.shape[0], : drawn.shape[1]] = drawn[:_SIDE, :_SIDE]
    return cell


def augmentation_sheet(
    records: Sequence[dict[str, Any]],
    classes: Sequence[str],
    augmentations: Mapping[str, Steps] | None = None,
    *,
    samples: int = 4,
    seed: int = 0,
    stretch: StretchLike = None,
) -> np.ndarray:
    """Draw one row for each augmentation, with one image in each column.

    Args:
        records: Detectron2 dataset dicts; images among the quarter with the most objects are shown.
        classes: class names for the legends.
        augmentations: title → augmentations or a mapper; by default each of d2tiny's alone, and all together.
        samples: number of columns.
        seed: random seed; each row starts with it.
        stretch: scale of images that are not 8-bit, where a mapper has none of its own.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    by_count = sorted(records, key=lambda r: -sum(not a["iscrowd"] for a in r["annotations"]))
    crowded = by_count[: max(1, len(by_count) // 4)]  # a quarter, so that columns do not all show the same scene
    chosen = [crowded[i * len(crowded) // samples] for i in range(samples)]
    rows = []
    for title, steps in (augmentations or DEFAULT_AUGMENTATIONS).items():
        if isinstance(steps, TinyDatasetMapper):
            mapper = copy.copy(steps)
            mapper.stretch = mapper.stretch or make_stretch(stretch)
        else:
            mapper = TinyDatasetMapper(is_train=True, augmentations=steps, stretch=stretch)
        np.random.seed(seed)
        rows.append(np.concatenate([_cell(_result(mapper, chosen, i), classes, title) for i in range(samples)], axis=1))
    return np.concatenate(rows)


def _result(mapper: TinyDatasetMapper, records: Sequence[dict[str, Any]], index: int) -> dict[str, Any]:
    """Return the training input of a record in RGB; a mosaic takes its other images from the other columns."""
    result = mapper.draw(records, index, 0) if isinstance(mapper, StreamMapper) else mapper(records[index])
    if mapper.image_format == "BGR":
        result["image"] = result["image"].flip(0)
    return result
