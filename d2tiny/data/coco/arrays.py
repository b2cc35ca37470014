"""The objects of a dataset as arrays: the view of a COCO json that evaluation and statistics work on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from d2tiny.data.coco.boxes import fitting_areas, xywh_to_xyxy
from d2tiny.data.coco.document import REGION_KEYS
from d2tiny.data.coco.reader import CocoCategory, CocoData, CocoImage, coco_from_dict, find_ids, load_coco
from d2tiny.data.coco.values import parse_size
from d2tiny.utils.errors import DatasetError

__all__ = ["GroundTruth", "ground_truth_from_dict", "load_ground_truth"]

logger = logging.getLogger(__name__)

_OBJECT_FIELDS = ("image", "category", "boxes", "area", "ignore", "shared")


@dataclass(frozen=True)
class GroundTruth:
    """The objects of a dataset: I images and K classes by rising id, G objects, R ignored regions.

    Attributes:
        image_ids: (I,) int64.
        category_ids: (K,) int64.
        classes: K class names.
        image: (G,) int32, index into ``image_ids``.
        category: (G,) int32, index into ``category_ids``.
        boxes: (G, 4) float64 XYWH in px, in the order of the file.
        area: (G,) float64 in px²; that of the annotation, which may differ from width × height.
        ignore: (G,) bool; objects that need not be detected, and whose detections are no false positives.
        shared: (G,) bool; copies of regions, see :meth:`with_regions_as_crowds`.
        region_image: (R,) int32, image of each ignored region; regions hold for all classes.
        regions: (R, 4) float64 XYWH in px.
        region_drops: (R,) bool; objects and detections that lie half inside may be dropped before matching (VisDrone's
            ignored regions, but not its objects of the class "others").
        file_names: I names, "" where unknown.
        sizes: (I, 2) int64 width and height in px, 0 where unknown.
        id_numbers: number of each image id of the file as ``parse_id`` reads it; empty where all are themselves.
        listed: number of the annotations of the file, usable or not.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    classes: tuple[str, ...]
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    ignore: np.ndarray
    shared: np.ndarray
    region_image: np.ndarray
    regions: np.ndarray
    region_drops: np.ndarray
    file_names: tuple[str, ...]
    sizes: np.ndarray
    id_numbers: Mapping[int | str, int] = field(default_factory=dict)
    listed: int = 0

    def __len__(self) -> int:
        return len(self.image)

    def select(self, keep: np.ndarray) -> GroundTruth:
        """Return the objects at ``keep`` (mask or indices), with all images, classes and regions."""
        parts = {name: getattr(self, name)[keep] for name in _OBJECT_FIELDS}
        return replace(self, **parts)

    def require_objects(self, name: object) -> None:
        """Refuse a dataset that has nothing to evaluate.

        Args:
            name: of the dataset or its file, for the message.

        Raises:
            DatasetError: there is no object, or all are ignored.
        """
        if not self.ignore.all():
            return
        why = f"all {len(self)} usable ones are ignored" if len(self) else "none of them is usable"
        raise DatasetError(
            f"{name}: no object to evaluate: {self.listed} annotations are listed, {why}. `d2tiny check` says why; "
            "lists of test images without annotations cannot be evaluated."
        )

    def boxes_by_image(self) -> list[np.ndarray]:
        """Return the XYXY boxes (G_i, 4) of each image's objects, without ignored ones."""
        if not len(self.image_ids):
            return []
        use = np.flatnonzero(~self.ignore)
        use = use[np.argsort(self.image[use], kind="stable")]
        boxes = xywh_to_xyxy(self.boxes[use])
        return np.split(boxes, np.searchsorted(self.image[use], np.arange(1, len(self.image_ids))))

    def with_images(self, image_ids: Sequence[int]) -> GroundTruth:
        """Return these images with their objects and regions.

        Raises:
            DatasetError: an image id that is not in the dataset.
        """
        ids = np.unique(np.asarray(image_ids, dtype=np.int64))
        index = find_ids(self.image_ids, ids, "image ids to evaluate")
        new = np.full(len(self.image_ids), -1, dtype=np.int32)
        new[index] = np.arange(len(ids), dtype=np.int32)
        kept, regions = self.select(new[self.image] >= 0), new[self.region_image] >= 0
        return replace(
            kept,
            image_ids=ids,
            image=new[kept.image],
            region_image=new[self.region_image[regions]],
            regions=self.regions[regions],
            region_drops=self.region_drops[regions],
            file_names=tuple(self.file_names[i] for i in index),
            sizes=self.sizes[index],
        )

    def with_regions_as_crowds(self) -> GroundTruth:
        """Return the dataset with each region as an ignored object of every class, as COCO files would write it."""
        count, classes = len(self.regions), len(self.classes)
        if not count:
            return self
        boxes = np.repeat(self.regions, classes, axis=0)
        return replace(
            self,
            image=np.concatenate((self.image, np.repeat(self.region_image, classes))),
            category=np.concatenate((self.category, np.tile(np.arange(classes, dtype=np.int32), count))),
            boxes=np.concatenate((self.boxes, boxes)),
            area=np.concatenate((self.area, boxes[:, 2] * boxes[:, 3])),
            ignore=np.concatenate((self.ignore, np.ones(len(boxes), dtype=bool))),
            shared=np.concatenate((self.shared, np.ones(len(boxes), dtype=bool))),
            region_image=np.zeros(0, dtype=np.int32),
            regions=np.zeros((0, 4)),
            region_drops=np.zeros(0, dtype=bool),
        )


def load_ground_truth(path: Path) -> GroundTruth:
    """Read a COCO json for evaluation; boxes are neither clipped nor left out for their size.

    Ids, ignored objects and unusable annotations are treated as in training, see
    :func:`~d2tiny.data.coco.reader.load_coco`.

    Raises:
        DatasetError: the file is missing or unusable as a whole; the message names it.
    """
    data = load_coco(path)
    data.findings.log(logger, path)
    truth = _ground_truth(data)
    odd = np.flatnonzero((fitting_areas(truth.area, truth.boxes) != truth.area) & (truth.boxes[:, 2:] > 0).all(axis=1))
    if len(odd):
        logger.warning(
            "%s: %d of %d areas do not fit their boxes (first: %g px² of a box of %g x %g px). Evaluation sorts "
            "objects by the area as pycocotools does, statistics take the box; `d2tiny check --fix` replaces them.",
            path, len(odd), len(truth), truth.area[odd[0]], *truth.boxes[odd[0], 2:],
        )  # fmt: skip
    return truth


def ground_truth_from_dict(dataset: Mapping[str, Any]) -> GroundTruth:
    """Build the arrays from a COCO-style dict whose annotations are all usable.

    ``iscrowd`` or ``ignore`` marks ignored objects; ``ignored_regions`` and ``ignored_boxes`` (XYWH) of an image hold
    for all classes. ``area`` is width × height where it is missing, negative or not finite.

    Raises:
        DatasetError: an id occurs twice, or an annotation belongs to an unknown image or category.
    """
    return _ground_truth(coco_from_dict(dataset))


def _ground_truth(data: CocoData) -> GroundTruth:
    """Return the view for evaluation; its arrays are copies, because the data that were read are shared."""
    images, image_rank = _by_id([image.id for image in data.images])
    categories, category_rank = _by_id([category.id for category in data.categories])
    sorted_images = [data.images[i] for i in images]
    regions = [
        (i, box, key == REGION_KEYS[0])
        for i, image in enumerate(sorted_images)
        for key in REGION_KEYS
        for box in getattr(image, key)
    ]
    usable = np.isfinite(data.area) & (data.area >= 0)
    return GroundTruth(
        image_ids=np.array([image.id for image in sorted_images], dtype=np.int64),
        category_ids=np.array([data.categories[i].id for i in categories], dtype=np.int64),
        classes=_class_names([data.categories[i] for i in categories]),
        image=image_rank[data.image],
        category=category_rank[data.category],
        boxes=data.boxes.copy(),
        area=np.where(usable, data.area, data.boxes[:, 2] * data.boxes[:, 3]),
        ignore=data.ignore.copy(),
        shared=np.zeros(len(data.image), dtype=bool),
        region_image=np.array([i for i, _, _ in regions], dtype=np.int32),
        regions=np.array([box for _, box, _ in regions], dtype=np.float64).reshape(-1, 4),
        region_drops=np.array([drops for _, _, drops in regions], dtype=bool),
        file_names=tuple(str(image.file_name or "") for image in sorted_images),
        sizes=np.array([_size(image) for image in sorted_images], dtype=np.int64).reshape(-1, 2),
        id_numbers=data.id_numbers,
        listed=data.listed,
    )


def _by_id(ids: Sequence[int]) -> tuple[list[int], np.ndarray]:
    """Return the indices that sort ids, and the rank (N,) int32 of each id."""
    order = np.argsort(np.array(ids, dtype=np.int64), kind="stable")
    rank = np.empty(len(ids), dtype=np.int32)
    rank[order] = np.arange(len(ids), dtype=np.int32)
    return order.tolist(), rank


def _class_names(categories: Sequence[CocoCategory]) -> tuple[str, ...]:
    """Return names without blanks around them; equal names get their id, so that no row of a table is lost."""
    names = [category.name.strip() for category in categories]
    return tuple(n if names.count(n) == 1 else f"{n} ({c.id})" for n, c in zip(names, categories, strict=True))


def _size(image: CocoImage) -> tuple[int, int]:
    """Return width and height in px, also where they are written ``100.0``; 0 where they are no positive numbers."""
    return parse_size(image.width) or 0, parse_size(image.height) or 0
