"""The objects of a dataset as arrays: what evaluation and statistics work on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.records import (
    REGION_KEYS,
    category_numbers,
    hashable,
    image_numbers,
    is_ignored,
    read_box,
    read_coco_json,
    read_regions,
)
from d2tiny.utils.errors import DatasetError

__all__ = ["GroundTruth", "find_ids", "ground_truth_from_dict", "load_ground_truth"]

logger = logging.getLogger(__name__)

_OBJECT_FIELDS = ("image", "category", "boxes", "area", "ignore", "shared")


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
        shared: (G,) bool; copies of regions, see :meth:`with_regions_as_crowds`.
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
    shared: np.ndarray
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
        parts = {name: getattr(self, name)[keep] for name in _OBJECT_FIELDS}
        return replace(self, **parts)

    def boxes_by_image(self) -> list[np.ndarray]:
        """Return the XYXY boxes (G_i, 4) of each image's objects, without ignored ones."""
        if not len(self.image_ids):
            return []
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
            shared=np.concatenate((self.shared, np.ones(len(boxes), dtype=bool))),
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


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str = ""
    width: int = 0
    height: int = 0
    ignored_regions: list[tuple[float, float, float, float]] = []
    ignored_boxes: list[tuple[float, float, float, float]] = []


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Annotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int = 0
    ignore: int = 0


class _Dataset(msgspec.Struct, gc=False):
    """The usual COCO json; other keys are skipped. What does not fit is read the lenient way."""

    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


def _class_names(categories: Sequence[_Category]) -> tuple[str, ...]:
    """Names without blanks around them; those that occur twice get their id, so that no row of a table is lost."""
    names = [category.name.strip() for category in categories]
    return tuple(n if names.count(n) == 1 else f"{n} ({c.id})" for n, c in zip(names, categories, strict=True))


def _build(data: _Dataset) -> GroundTruth:
    """Arrays of whole annotations.

    Raises:
        DatasetError: an id twice, or an annotation of an unknown image or category.
    """
    images, categories = sorted(data.images, key=attrgetter("id")), sorted(data.categories, key=attrgetter("id"))
    entries, number = data.annotations, len(data.annotations)
    image_ids = np.array([image.id for image in images], dtype=np.int64)
    category_ids = np.array([category.id for category in categories], dtype=np.int64)
    if (np.diff(image_ids) == 0).any() or (np.diff(category_ids) == 0).any():
        raise DatasetError("Two images or two categories share an id.")
    boxes = np.fromiter(chain.from_iterable(map(attrgetter("bbox"), entries)), np.float64, 4 * number).reshape(-1, 4)
    given = np.array([np.nan if a.area is None else a.area for a in entries], dtype=np.float64)
    usable = np.isfinite(given) & (given >= 0)
    regions = [
        (i, box, key == REGION_KEYS[0])
        for i, image in enumerate(images)
        for key in REGION_KEYS
        for box in getattr(image, key)
    ]
    return GroundTruth(
        image_ids=image_ids,
        category_ids=category_ids,
        classes=_class_names(categories),
        image=find_ids(image_ids, _numbers(entries, "image_id"), "image ids of the annotations"),
        category=find_ids(category_ids, _numbers(entries, "category_id"), "category ids of the annotations"),
        boxes=boxes,
        area=np.where(usable, given, boxes[:, 2] * boxes[:, 3]),
        ignore=np.fromiter((bool(a.iscrowd or a.ignore) for a in entries), bool, number),
        shared=np.zeros(number, dtype=bool),
        region_image=np.array([i for i, _, _ in regions], dtype=np.int32),
        regions=np.array([box for _, box, _ in regions], dtype=np.float64).reshape(-1, 4),
        region_drops=np.array([drops for _, _, drops in regions], dtype=bool),
        file_names=tuple(image.file_name for image in images),
        sizes=np.array([[max(0, m.width), max(0, m.height)] for m in images], dtype=np.int64).reshape(-1, 2),
    )


def _numbers(entries: Sequence[_Annotation], key: str) -> np.ndarray:
    return np.fromiter(map(attrgetter(key), entries), np.int64, len(entries))


def ground_truth_from_dict(dataset: Mapping[str, Any]) -> GroundTruth:
    """Build the arrays from a COCO-style dict with whole annotations.

    ``iscrowd`` or ``ignore`` marks ignored objects; ``ignored_regions`` and ``ignored_boxes`` (XYWH) of an image hold
    for all classes. ``area`` is width × height where it is missing, negative or not finite.

    Raises:
        DatasetError: an id twice, or an annotation of an unknown image or category.
    """
    none = Findings()  # boxes of regions that are none are left to `d2tiny check`
    images = [
        _Image(
            image["id"],
            str(image.get("file_name") or ""),
            _size(image.get("width")),
            _size(image.get("height")),
            *(read_regions(dict(image), key, none) for key in REGION_KEYS),
        )
        for image in dataset["images"]
    ]
    annotations = []
    for a in dataset["annotations"]:
        x, y, w, h = map(float, a["bbox"])
        crowd = int(is_ignored(a))
        annotations.append(_Annotation(a["image_id"], a["category_id"], (x, y, w, h), _area(a), crowd))
    return _build(_Dataset(images, [_Category(c["id"], str(c["name"])) for c in dataset["categories"]], annotations))


def load_ground_truth(path: Path) -> GroundTruth:
    """Read a COCO json for evaluation, as leniently as the loader of training data.

    Ids become numbers; annotations that are unreadable or of an unknown image or category are left out and counted;
    ``ignore`` counts like ``iscrowd``. Boxes are neither clipped nor dropped for their size.

    Raises:
        DatasetError: the file is unusable as a whole.
    """
    try:  # the usual file, in which nothing is odd, is read several times as fast
        truth = _build(msgspec.json.decode(path.read_bytes(), type=_Dataset))
        if np.isfinite(truth.boxes).all():  # json has no NaN, but 1e999
            return truth
    except (OSError, msgspec.DecodeError, OverflowError, DatasetError):
        pass
    data = read_coco_json(path)
    for key in ("images", "annotations", "categories"):
        data[key] = [entry for entry in data[key] if isinstance(entry, dict)]
    images = image_numbers(data["images"], path)
    categories = category_numbers(data["categories"], path)
    report = Findings()
    annotations = []
    for annotation in data["annotations"]:
        box = read_box(annotation)
        image, category = hashable(annotation.get("image_id")), hashable(annotation.get("category_id"))
        if image not in images or category not in categories:
            box = "annotations of an unknown image or category"
        if isinstance(box, str):
            report.add(box, f"annotation id {annotation.get('id')}")
            continue
        annotations.append({**annotation, "image_id": images[image], "category_id": categories[category], "bbox": box})
    report.log(logger, path)
    outline = {
        "images": [{**image, "id": images[image["id"]]} for image in data["images"]],
        "categories": [{"id": categories[c["id"]], "name": c["name"]} for c in data["categories"]],
    }
    text_ids = {raw: number for raw, number in images.items() if isinstance(raw, str)}
    try:
        return replace(ground_truth_from_dict({**outline, "annotations": annotations}), text_ids=text_ids)
    except (OverflowError, DatasetError) as err:
        raise DatasetError(f"{path}: {err}") from err


def _size(value: Any) -> int:
    """A side in px, also where it is written ``100.0``; 0 where it is none."""
    return int(value) if isinstance(value, int | float) and np.isfinite(value) and value > 0 else 0


def _area(annotation: Mapping[str, Any]) -> float | None:
    try:
        return float(annotation["area"])
    except (KeyError, TypeError, ValueError):
        return None
