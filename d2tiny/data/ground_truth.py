"""The objects of a dataset as arrays: what evaluation and statistics work on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from d2tiny.data.datasets.coco_like import (
    REGION_KEYS,
    category_numbers,
    image_numbers,
    is_ignored,
    read_box,
    read_coco_json,
)
from d2tiny.data.findings import Findings
from d2tiny.utils.errors import DatasetError

__all__ = ["GroundTruth", "find_ids", "ground_truth_from_dict", "load_ground_truth"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroundTruth:
    """The objects of a dataset. I images, K classes, G objects, R regions; images and classes by rising id.

    Attributes:
        image_ids: (I,) int64.
        category_ids: (K,) int64.
        classes: K names.
        image: (G,) int32, index into ``image_ids``.
        category: (G,) int32, index into ``category_ids``.
        boxes: (G, 4) float64 XYWH in px, in the order of the file.
        area: (G,) float64 in px²; the annotation's, which may differ from width × height.
        ignore: (G,) bool; neither to be found nor punished.
        region_image: (R,) int32, image of each ignored region that holds for all classes.
        regions: (R, 4) float64 XYWH.
        region_drops: (R,) bool; what lies half inside may be dropped beforehand (VisDrone's ignored regions, but not
            its objects of the class "others").
        file_names: I names, "" where unknown.
        sizes: (I, 2) int64 width and height in px, 0 where unknown.
        text_ids: number of each image id that the file writes as a text.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    classes: tuple[str, ...]
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    ignore: np.ndarray
    region_image: np.ndarray
    regions: np.ndarray
    region_drops: np.ndarray
    file_names: tuple[str, ...]
    sizes: np.ndarray
    text_ids: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.image)

    def select(self, keep: np.ndarray) -> GroundTruth:
        """Return the objects at ``keep`` (mask or indices); images, classes and regions stay."""
        parts = {name: getattr(self, name)[keep] for name in ("image", "category", "boxes", "area", "ignore")}
        return replace(self, **parts)

    def boxes_by_image(self) -> list[np.ndarray]:
        """Return the XYXY boxes (G_i, 4) of each image's objects, without ignored ones."""
        use = np.flatnonzero(~self.ignore)
        use = use[np.argsort(self.image[use], kind="stable")]
        boxes = self.boxes[use].copy()
        boxes[:, 2:] += boxes[:, :2]
        return np.split(boxes, np.searchsorted(self.image[use], np.arange(1, len(self.image_ids))))

    def with_images(self, image_ids: Sequence[int]) -> GroundTruth:
        """Return the part on these images.

        Raises:
            DatasetError: an image that is not there.
        """
        ids = np.unique(np.asarray(image_ids, dtype=np.int64))
        places = find_ids(self.image_ids, ids, "image ids to evaluate")
        new = np.full(len(self.image_ids), -1, dtype=np.int32)
        new[places] = np.arange(len(ids), dtype=np.int32)
        kept, regions = self.select(new[self.image] >= 0), new[self.region_image] >= 0
        return replace(
            kept,
            image_ids=ids,
            image=new[kept.image],
            region_image=new[self.region_image[regions]],
            regions=self.regions[regions],
            region_drops=self.region_drops[regions],
            file_names=tuple(self.file_names[i] for i in places),
            sizes=self.sizes[places],
        )

    def with_regions_as_crowds(self) -> GroundTruth:
        """Return it with each region as an ignored object of every class, as COCO files would write it."""
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
            region_image=np.zeros(0, dtype=np.int32),
            regions=np.zeros((0, 4)),
            region_drops=np.zeros(0, dtype=bool),
        )


def find_ids(known: np.ndarray, wanted: np.ndarray, what: str) -> np.ndarray:
    """Return the index in the sorted ``known`` of each entry of ``wanted``.

    Raises:
        DatasetError: an entry that is not known; counts them.
    """
    places = np.searchsorted(known, wanted)
    missing = np.ones(len(wanted), dtype=bool) if not len(known) else known[places.clip(max=len(known) - 1)] != wanted
    if missing.any():
        first = wanted[missing][0]
        raise DatasetError(
            f"{int(missing.sum())} of {len(wanted)} {what} are not in the ground truth (first: {first}). "
            "Are these predictions of another split?"
        )
    return places.astype(np.int32)


def ground_truth_from_dict(dataset: Mapping[str, Any]) -> GroundTruth:
    """Build the arrays from a COCO-style dict with whole annotations.

    ``iscrowd`` or ``ignore`` marks ignored objects; ``ignored_regions`` and ``ignored_boxes`` (XYWH) of an image hold
    for all classes.
    ``area`` is width × height where it is missing.
    """
    images = sorted(dataset["images"], key=lambda image: image["id"])
    categories = sorted(dataset["categories"], key=lambda category: category["id"])
    image_index = {image["id"]: i for i, image in enumerate(images)}
    category_index = {category["id"]: i for i, category in enumerate(categories)}
    annotations = dataset["annotations"]
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    given = [a.get("area") for a in annotations]
    area = boxes[:, 2] * boxes[:, 3]
    if annotations:
        known = np.array([a is not None for a in given])
        area[known] = [a for a in given if a is not None]
    regions = [
        (i, box, key == "ignored_regions")
        for i, image in enumerate(images)
        for key in REGION_KEYS
        for box in image.get(key, ())
    ]
    return GroundTruth(
        np.array([image["id"] for image in images], dtype=np.int64),
        np.array([category["id"] for category in categories], dtype=np.int64),
        tuple(str(category["name"]).strip() for category in categories),
        np.array([image_index[a["image_id"]] for a in annotations], dtype=np.int32),
        np.array([category_index[a["category_id"]] for a in annotations], dtype=np.int32),
        boxes,
        area,
        np.array([bool(a.get("iscrowd", 0)) or bool(a.get("ignore", 0)) for a in annotations], dtype=bool),
        np.array([i for i, _, _ in regions], dtype=np.int32),
        np.array([box for _, box, _ in regions], dtype=np.float64).reshape(-1, 4),
        np.array([drops for _, _, drops in regions], dtype=bool),
        tuple(str(image.get("file_name", "")) for image in images),
        np.array([[_size(image.get(key)) for key in ("width", "height")] for image in images]).reshape(-1, 2),
    )


def _size(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def load_ground_truth(path: Path) -> GroundTruth:
    """Read a COCO json for evaluation, as leniently as the loader of training data.

    Ids become numbers; annotations that are unreadable or of an unknown image or category are left out and counted;
    ``ignore`` counts like ``iscrowd``. Boxes are neither clipped nor dropped for their size.

    Raises:
        DatasetError: the file is unusable as a whole.
    """
    data = read_coco_json(path)
    images = image_numbers(data["images"], path)
    categories = category_numbers(data["categories"], path)
    outline = {
        "images": [{**image, "id": images[image["id"]]} for image in data["images"]],
        "categories": [{"id": categories[c["id"]], "name": c["name"]} for c in data["categories"]],
    }
    if all(raw == number for ids in (images, categories) for raw, number in ids.items()):
        try:  # files without anything odd need no look at each annotation
            truth = ground_truth_from_dict({**outline, "annotations": data["annotations"]})  # numbers are the ids
            if np.isfinite(truth.boxes).all() and np.isfinite(truth.area).all():
                return truth
        except (KeyError, TypeError, ValueError):
            pass
    report = Findings()
    annotations = []
    for annotation in data["annotations"]:
        box = read_box(annotation)
        if annotation.get("image_id") not in images or annotation.get("category_id") not in categories:
            box = "annotations of an unknown image or category"
        if isinstance(box, str):
            report.add(box, f"annotation id {annotation.get('id')}")
            continue
        annotations.append(
            {
                "image_id": images[annotation["image_id"]],
                "category_id": categories[annotation["category_id"]],
                "bbox": box,
                "area": _area(annotation),
                "iscrowd": is_ignored(annotation),
            }
        )
    report.log(logger, path)
    text_ids = {raw: number for raw, number in images.items() if isinstance(raw, str)}
    return replace(ground_truth_from_dict({**outline, "annotations": annotations}), text_ids=text_ids)


def _area(annotation: dict[str, Any]) -> float | None:
    try:
        area = float(annotation["area"])
    except (KeyError, TypeError, ValueError):
        return None
    return area if np.isfinite(area) else None
