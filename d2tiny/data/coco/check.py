"""Check a COCO json and its images: one list of findings, and a clean copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2tiny.data.coco.boxes import (
    CLIP_TOLERANCE,
    clip_box,
    fitting_area,
    overhang,
    xywh_to_xyxy,
)
from d2tiny.data.coco.check_entries import checked_categories, checked_images, images_with_usable_files
from d2tiny.data.coco.document import COCO_LISTS, normalise_keys
from d2tiny.data.coco.entries import (
    note_texts,
    read_annotation_box,
    read_ignored,
    shown,
    with_usable_outline,
    without_nan,
)
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.values import parse_flag, parse_id
from d2tiny.data.loading.stretch import StretchLike
from d2tiny.utils.errors import ConfigError
from d2tiny.utils.files import read_json
from d2tiny.utils.memory import paused_gc

__all__ = ["CheckResult", "check_dataset", "check_json"]

_ById = dict[Any, dict[str, Any]]
_STANDARD = {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore"}
_NUMBERS = frozenset({int, float})
_WHOLE = 0.9  # share of the image from which a box is noted
_NEAR = 0.9  # IoU from which two boxes of a class are probably one object


@dataclass(frozen=True)
class CheckResult:
    """What the check of a dataset found.

    Attributes:
        findings: all problems.
        clean: a COCO dict without the broken parts: boxes clipped, ids unique, duplicates removed. It shares entries
            that nothing is wrong with with the data that were checked.
    """

    findings: Findings
    clean: dict[str, Any]


@paused_gc()
def check_json(
    path: Path, images: Path | None, *, decode: bool = False, progress: bool = True, stretch: StretchLike = None
) -> CheckResult:
    """Check a COCO json.

    Args:
        path: the json; it is not modified.
        images: folder that ``file_name`` is relative to; None skips the images.
        decode: decode every image, which also finds damage in the middle of the pixel data (seconds per thousand
            images).
        progress: show a progress bar.
        stretch: scale of images that are not 8-bit, see :func:`~d2tiny.data.loading.images.read_image`; without it they
            are errors.

    Raises:
        DatasetError: the file is no COCO detection json.
        ConfigError: the image folder does not exist, or none of several images is in it.
    """
    if images is not None and not images.is_dir():
        raise ConfigError(f"--images {images}: no such folder.")
    findings = Findings()
    data = normalise_keys(read_json(path), path, findings)
    return check_dataset(data, images, findings, decode=decode, progress=progress, stretch=stretch)


def check_dataset(
    data: dict[str, Any],
    root: Path | None,
    findings: Findings | None = None,
    *,
    decode: bool = False,
    progress: bool = True,
    stretch: StretchLike = None,
) -> CheckResult:
    """Check a COCO dict.

    Args:
        data: with ``images, annotations, categories``; it is not modified.
        root: folder that ``file_name`` is relative to; None skips the images.
        findings: earlier findings, such as a converter's, to add to.
        decode: see :func:`check_json`.
        progress: show a progress bar.
        stretch: see :func:`check_json`.

    Raises:
        ConfigError: none of several images is in the folder.
    """
    found = Findings() if findings is None else findings
    categories = checked_categories(data["categories"], found)
    images = checked_images(data["images"], found)
    if root is not None:
        images = images_with_usable_files(images, root, found, decode, progress, stretch)
    annotations = _annotations(data["annotations"], images, categories, found)
    _check_totals(images, categories, annotations, found)
    others = without_nan({k: v for k, v in data.items() if k not in COCO_LISTS}, "the file", found)
    clean = {
        **others,
        "images": list(images.values()),
        "annotations": annotations,
        "categories": list({c["id"]: c for c in categories.values()}.values()),
    }
    return CheckResult(found, clean)


def _annotations(
    entries: list[dict[str, Any]], images: _ById, categories: _ById, found: Findings
) -> list[dict[str, Any]]:
    """Return the usable annotations, with clipped boxes, and with new ids if any was missing or used twice."""
    twice = _ids_used_twice(entries)
    checked = (_checked(number, entry, images, categories, twice, found) for number, entry in enumerate(entries))
    kept = _without_duplicates([entry for entry in checked if entry is not None], found)
    if twice:
        kept = [{**entry, "id": number} for number, entry in enumerate(kept, start=1)]
    return kept


def _checked(
    number: int, entry: dict[str, Any], images: _ById, categories: _ById, twice: set[Any], found: Findings
) -> dict[str, Any] | None:
    """Return an annotation as it can be used, itself where nothing is wrong with it; None if it cannot be used."""
    key = parse_id(entry.get("id"))
    image = images.get(parse_id(entry.get("image_id")))
    category = categories.get(parse_id(entry.get("category_id")))
    if key is not None and key not in twice and _is_perfect(entry, image, category):
        return entry
    where = f"annotation {shown(entry.get('id', f'number {number}'))} of image {shown(entry.get('image_id'))}"
    note_texts(entry, ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore"), where, found)
    if key is None:
        found.add("annotations without an id", where, "note")
    elif key in twice:
        found.add("annotations with the id of another", where)
    if image is None:
        found.add("annotations of an unknown image, left out", where)
        return None
    if category is None:
        given = shown(entry.get("category_id"))
        found.add("annotations of unknown classes, left out", f"{where}: {given}", "error")
        return None
    box = read_annotation_box(entry, where, found)
    clipped = box if isinstance(box, str) else clip_box(box, (image["width"], image["height"]))
    if isinstance(box, str) or isinstance(clipped, str):
        found.add(f"{clipped}, left out", f"{where}: {shown(entry.get('bbox'))}", "error")
        return None
    numbers = {"id": key, "image_id": image["id"], "category_id": category["id"]}
    return _repaired({**entry, **numbers}, box, clipped, image, where, found)


def _ids_used_twice(entries: list[dict[str, Any]]) -> set[Any]:
    """Return the ids that several annotations have; None is among them if an annotation has none."""
    seen: set[Any] = set()
    twice: set[Any] = set()
    for entry in entries:
        key = parse_id(entry.get("id"))
        (twice if key is None or key in seen else seen).add(key)
    return twice


def _is_perfect(entry: dict[str, Any], image: dict[str, Any] | None, category: dict[str, Any] | None) -> bool:
    """Return whether the rules would find nothing and change nothing: so are most annotations, and this is fast."""
    if image is None or category is None or entry.keys() != _STANDARD:
        return False
    box, area, ignored = entry["bbox"], entry["area"], entry["ignore"]
    if type(box) is not list or len(box) != 4 or not _NUMBERS.issuperset(map(type, (*box, area))):
        return False
    if type(ignored) is not int or entry["iscrowd"] is not ignored or not 0 <= ignored <= 1:
        return False
    if entry["image_id"] is not image["id"] and entry["image_id"] != image["id"]:
        return False
    x, y, w, h = box
    inside = x >= 0 and y >= 0 and w >= 1 and h >= 1 and x + w <= image["width"] and y + h <= image["height"]
    small = w * h <= _WHOLE * image["width"] * image["height"]
    return (
        inside
        and small
        and 0 < area <= w * h
        and type(entry["id"]) is type(entry["image_id"]) is int
        and (type(entry["category_id"]) is int and entry["category_id"] == category["id"])
    )


def _repaired(
    entry: dict[str, Any], box: list[float], clipped: list[float], image: dict[str, Any], where: str, found: Findings
) -> dict[str, Any]:
    """Return one annotation with its box inside the image and an area that fits."""
    w, h = box[2:]
    area = fitting_area(entry, w, h)
    if overhang(box, (image["width"], image["height"])) > CLIP_TOLERANCE:
        found.add("boxes over the image border, clipped", f"{where}: {_plain(box)}")
        box = clipped
    if min(w, h) < 1:
        found.add("boxes with a side under 1 px", f"{where}: {_plain([*box[:2], w, h])}", "note")
    if w * h > _WHOLE * image["width"] * image["height"]:
        found.add("boxes as large as their image", f"{where}: {_plain([*box[:2], w, h])}", "note")
    if area is None:
        area = box[2] * box[3]
        if entry.get("area") is None:
            found.add("annotations without an area, replaced by width x height", where, "note")
        else:
            kind = "areas that do not fit their box, replaced by width x height"
            found.add(kind, f"{where}: {shown(entry['area'])} for {_plain([*box[:2], w, h])}")
    area = min(area, box[2] * box[3])
    if "ignore" in entry and parse_flag(entry["ignore"]) != parse_flag(entry.get("iscrowd")):
        found.add("annotations whose ignore and iscrowd disagree", where, "note")
    ignored = int(read_ignored(entry, where, found))
    standard = {"bbox": box, "area": area, "iscrowd": ignored, "ignore": ignored}
    others = {k: v for k, v in with_usable_outline(entry, where, found).items() if k not in standard}
    return {**without_nan(others, where, found), **standard}


def _plain(box: Sequence[float]) -> list[float]:
    """Return a box as most files write it, for messages: 5 instead of 5.0."""
    return [int(v) if v == int(v) else v for v in box]


def _without_duplicates(entries: list[dict[str, Any]], found: Findings) -> list[dict[str, Any]]:
    """Return the entries without boxes that repeat another of their class exactly; near repetitions stay."""
    repeated, near = _repetitions(entries)
    for j in np.flatnonzero(repeated | near).tolist():
        where = f"image {entries[j]['image_id']}: {entries[j]['bbox']}"
        if repeated[j]:
            found.add("boxes that repeat another of their class, once kept", where)
        else:
            found.add(f"boxes that nearly repeat another of their class (IoU >= {_NEAR})", where, "note")
    return [entry for entry, drop in zip(entries, repeated.tolist(), strict=True) if not drop]


def _repetitions(entries: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return which boxes repeat an earlier one of their image, class and mark, exactly and nearly, (N,) bool each."""
    count = len(entries)
    groups: dict[tuple[Any, Any, int], int] = {}
    group = np.fromiter(
        (groups.setdefault((e["image_id"], e["category_id"], e["iscrowd"]), len(groups)) for e in entries),
        np.int64,
        count,
    )
    values = (v for e in entries for v in e["bbox"])
    order = np.argsort(group, kind="stable")
    boxes = np.fromiter(values, np.float64, 4 * count).reshape(-1, 4)[order]
    group, corners = group[order], xywh_to_xyxy(boxes)
    area = boxes[:, 2] * boxes[:, 3]
    same, near = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    later = np.arange(count)
    for step in range(1, count):  # all pairs at this distance within their group; groups are small
        later = later[later >= step]
        later = later[group[later] == group[later - step]]
        if not len(later):
            break
        a, b = corners[later], corners[later - step]
        inter = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(axis=1)
        same[later] |= (boxes[later] == boxes[later - step]).all(axis=1)
        near[later] |= inter >= _NEAR * (area[later] + area[later - step] - inter)
    result = np.zeros((2, count), dtype=bool)
    result[0, order], result[1, order] = same, near
    return result[0], result[1]


def _check_totals(
    images: dict[Any, Any], categories: dict[Any, Any], annotations: list[dict[str, Any]], found: Findings
) -> None:
    used = {a["category_id"] for a in annotations}
    for category in {c["id"]: c for c in categories.values()}.values():
        if category["id"] not in used:
            found.add("classes without an object", category["name"], "note")
    with_objects = {a["image_id"] for a in annotations}
    empty = [image["file_name"] for key, image in images.items() if key not in with_objects]
    if empty:
        found.add("images without an object", empty[0], "note", len(empty))
    if not images:
        found.add("no image is left", "nothing to train on", "error")
    elif not annotations:
        found.add("no object is left", "nothing to learn", "error")
