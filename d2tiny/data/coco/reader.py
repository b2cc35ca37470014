"""Read COCO json once, for training and for evaluation: the usual file fast, odd files leniently, to the same arrays.

:mod:`~d2tiny.data.coco.records` and :mod:`~d2tiny.data.coco.arrays` are two views of what :func:`load_coco` returns.
Whatever files write otherwise than COCO (ids as text, say) is converted here and in
:mod:`~d2tiny.data.coco.document`, so that both views agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from d2tiny.data.coco.boxes import MAX_COORDINATE
from d2tiny.data.coco.document import REGION_KEYS, CocoEntries, coco_entries, read_entries
from d2tiny.data.coco.entries import Label, read_annotation, read_regions
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.values import parse_id, parse_number, parse_size
from d2tiny.utils.errors import DatasetError
from d2tiny.utils.files import read_json
from d2tiny.utils.memory import paused_gc

__all__ = ["CocoCategory", "CocoData", "CocoImage", "coco_from_dict", "find_ids", "load_coco"]

Box = tuple[float, float, float, float]
_CACHED_FILES = 4  # training, validation and test of one dataset, and one more


class CocoImage(msgspec.Struct, gc=False):
    """An image entry. Regions are XYWH in px; sizes and names are as the file writes them, UNSET where it does not."""

    id: int
    file_name: str | UnsetType = UNSET
    width: int | UnsetType = UNSET
    height: int | UnsetType = UNSET
    ignored_regions: list[Box] = []
    ignored_boxes: list[Box] = []


class CocoCategory(msgspec.Struct, gc=False):
    """A category entry."""

    id: int
    name: str


class _Annotation(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: Box
    id: int | float | str | None = None
    area: float | None = None
    iscrowd: Literal[0, 1] | bool = 0
    ignore: Literal[0, 1] | bool = 0


class _Document(msgspec.Struct, gc=False):
    """The usual COCO json; other keys are skipped. What does not fit is read leniently."""

    images: list[CocoImage]
    categories: list[CocoCategory]
    annotations: list[_Annotation]


@dataclass(frozen=True)
class CocoData:
    """What a COCO json holds: I images and K categories, G usable annotations, all in the order of the file.

    Shared by all who read the same file: do not modify it.

    Attributes:
        images: I entries, with numbers as ids.
        categories: K entries, with numbers as ids.
        image: (G,) int32, index into ``images``.
        category: (G,) int32, index into ``categories``.
        boxes: (G, 4) float64 XYWH in px, finite, neither clipped nor checked for their size.
        area: (G,) float64 in px², NaN where the file has no number.
        ignore: (G,) bool, from ``iscrowd`` or ``ignore``.
        annotation_ids: G ids as the file writes them (None where missing), for messages.
        listed: number of the file's annotations, usable or not.
        file_ids: id in the file of each image whose number is another.
        findings: what was left out.
    """

    images: Sequence[CocoImage]
    categories: Sequence[CocoCategory]
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    ignore: np.ndarray
    annotation_ids: Sequence[Any]
    listed: int
    file_ids: Mapping[int, Any] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)

    @property
    def id_numbers(self) -> dict[int | str, int]:
        """Number of each image id as ``parse_id`` reads it; empty where all are themselves."""
        keys = {image.id: parse_id(self.file_ids.get(image.id, image.id)) for image in self.images}
        if all(key == number for number, key in keys.items()):
            return {}
        return {key: number for number, key in keys.items() if key is not None}

    def file_image_id(self, index: int) -> Any:
        """Return the id of ``images[index]`` as the file writes it, for messages."""
        number = self.images[index].id
        return self.file_ids.get(number, number)

    def where(self, index: int) -> str:
        """Return which annotation ``index`` is, for messages."""
        image = self.file_image_id(int(self.image[index]))
        return f"annotation id {self.annotation_ids[index]} of image id {image}"


def find_ids(known: np.ndarray, ids: np.ndarray, what: str) -> np.ndarray:
    """Return the index in ``known`` of each of ``ids``.

    Args:
        known: (K,) sorted ids.
        ids: (N,) ids to look up.
        what: name of ``ids`` in the message.

    Returns:
        (N,) int32.

    Raises:
        DatasetError: an id that is not known; counts them.
    """
    index = np.searchsorted(known, ids)
    missing = np.ones(len(ids), dtype=bool) if not len(known) else known[index.clip(max=len(known) - 1)] != ids
    if missing.any():
        first = ids[missing][0]
        few = ", ".join(map(str, known[:20])) + ", ..." * (len(known) > 20)
        hint = f"It has {few or 'none'}." if "category" in what else "Are these predictions of another split?"
        raise DatasetError(
            f"{int(missing.sum())} of {len(ids)} {what} are not in the ground truth (first: {first}). {hint}"
        )
    return index.astype(np.int32)


def load_coco(path: Path) -> CocoData:
    """Read a COCO json; the last few files stay in memory as arrays until they change on disk.

    Ids become numbers; annotations that have no box of four finite numbers (nor polygons), or belong to an unknown
    image or category, are left out and counted in ``findings``.

    Raises:
        DatasetError: the file is missing or unusable as a whole; the message names it.
    """
    try:
        state = path.stat()
    except OSError:
        read_json(path)  # raises an error that says what is wrong
        raise
    return _load(path, state.st_ino, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=_CACHED_FILES)
@paused_gc()
def _load(path: Path, inode: int, modified: int, size: int) -> CocoData:
    """Read a file; all but ``path`` only tell its versions apart."""
    try:
        document = msgspec.json.decode(path.read_bytes(), type=_Document)
        data = _to_arrays(document.images, document.categories, document.annotations)
        if _is_regular(data):
            return data
    # An odd file is read again, entry by entry, which also finds the words for what is wrong.
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError, DatasetError):
        pass
    return _load_leniently(path)


def _is_regular(data: CocoData) -> bool:
    """Return whether all numbers are in range (json has no NaN, but 1e999 is infinity) and nothing lacks its name."""
    if any(image.file_name is UNSET for image in data.images):
        return False  # perhaps it has another key
    if not (np.abs(data.boxes) <= MAX_COORDINATE).all() or not all(c.name.strip() for c in data.categories):
        return False
    regions = [box for image in data.images for key in REGION_KEYS for box in getattr(image, key)]
    return bool((np.abs(np.array(regions, dtype=np.float64)) <= MAX_COORDINATE).all())


def _load_leniently(path: Path) -> CocoData:
    """Read a file entry by entry; several times slower."""
    findings = Findings()
    return _from_entries(read_entries(path, findings), findings)


def _from_entries(entries: CocoEntries, findings: Findings) -> CocoData:
    """Convert entries; what cannot be used is left out and counted."""
    annotations = []
    for entry in entries.annotations:
        label = read_annotation(entry, entries.image_numbers, entries.category_numbers, findings)
        if label is not None:
            annotations.append(_usable(entry, label))
    images = list(zip(entries.images, entries.image_numbers.values(), strict=True))
    categories = zip(entries.categories, entries.category_numbers.values(), strict=True)
    return _to_arrays(
        [_image(image, number, findings) for image, number in images],
        [CocoCategory(number, str(category["name"])) for category, number in categories],
        annotations,
        listed=entries.listed,
        file_ids={number: image["id"] for image, number in images if image["id"] is not number},
        findings=findings,
    )


def _image(entry: Mapping[str, Any], number: int, findings: Findings) -> CocoImage:
    """Return an image entry; a size that is none is kept as it is, for messages."""
    width, height = (parse_size(entry.get(key)) or entry.get(key, UNSET) for key in ("width", "height"))
    regions = (read_regions(entry, key, findings) for key in REGION_KEYS)
    return CocoImage(number, entry.get("file_name", UNSET), width, height, *regions)


def _usable(entry: Mapping[str, Any], label: Label) -> _Annotation:
    area = parse_number(entry.get("area"))
    return _Annotation(label.image, label.category, label.box, entry.get("id"), area, label.ignored)


def coco_from_dict(dataset: Mapping[str, Any]) -> CocoData:
    """Convert a COCO-style dict whose annotations are all usable.

    Raises:
        DatasetError: an id occurs twice, or an annotation has no usable box or belongs to an unknown image or category.
    """
    findings = Findings()
    data = _from_entries(coco_entries(dataset, "the dataset", findings), findings)
    if len(data.image) < data.listed:
        raise DatasetError(f"the dataset: {findings}. Check the image ids of the annotations, classes and boxes.")
    return data  # regions that are no boxes are left to `d2tiny check`


def _to_arrays(
    images: Sequence[CocoImage],
    categories: Sequence[CocoCategory],
    annotations: Sequence[_Annotation],
    *,
    listed: int | None = None,
    file_ids: Mapping[int, Any] | None = None,
    findings: Findings | None = None,
) -> CocoData:
    count = len(annotations)
    return CocoData(
        images=images,
        categories=categories,
        image=_indices(images, annotations, "image"),
        category=_indices(categories, annotations, "category"),
        # three times as fast as an array of tuples
        boxes=np.fromiter(chain.from_iterable(map(attrgetter("bbox"), annotations)), np.float64, 4 * count).reshape(
            -1, 4
        ),
        area=np.array([np.nan if a.area is None else a.area for a in annotations], dtype=np.float64),
        ignore=np.fromiter((bool(a.iscrowd or a.ignore) for a in annotations), bool, count),
        annotation_ids=[a.id for a in annotations],
        listed=count if listed is None else listed,
        file_ids=file_ids or {},
        findings=findings or Findings(),
    )


def _indices(
    entries: Sequence[CocoImage] | Sequence[CocoCategory], annotations: Sequence[_Annotation], what: str
) -> np.ndarray:
    """Return the index of each annotation's image or category, (G,) int32.

    Raises:
        DatasetError: an id occurs twice, or is unknown.
    """
    ids = np.array([entry.id for entry in entries], dtype=np.int64)
    order = np.argsort(ids, kind="stable").astype(np.int32)
    if (np.diff(ids[order]) == 0).any():
        raise DatasetError("Two images or two categories share an id.")
    wanted = np.fromiter(map(attrgetter(f"{what}_id"), annotations), np.int64, len(annotations))
    return order[find_ids(ids[order], wanted, f"{what} ids of the annotations")]
