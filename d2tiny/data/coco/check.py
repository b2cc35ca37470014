"""Check a COCO json and its images: one list of findings, and a clean copy."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2tiny.data.coco.boxes import (
    CLIP_TOLERANCE,
    clip_box,
    fitting_area,
    is_ignored,
    overhang,
    read_box,
    xywh_to_xyxy,
)
from d2tiny.data.coco.check_entries import checked_categories, checked_images, images_with_usable_files
from d2tiny.data.coco.document import COCO_LISTS, hashable, normalise_keys, without_nan
from d2tiny.data.coco.findings import Findings
from d2tiny.data.loading.stretch import StretchLike
from d2tiny.utils.errors import ConfigError
from d2tiny.utils.files import read_json

__all__ = ["CheckResult", "check_dataset", "check_json"]

_NEAR = 0.9  # IoU from which two boxes of a class are probably one object


@dataclass(frozen=True)
class CheckResult:
    """What the check of a dataset found.

    Attributes:
        findings: all problems.
        clean: a COCO dict without the broken parts: boxes clipped, ids unique, duplicates removed.
    """

    findings: Findings
    clean: dict[str, Any]


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
        ConfigError: the image folder does not exist.
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
        "categories": list({hashable(c["id"]): c for c in categories.values()}.values()),
    }
    return CheckResult(found, clean)


def _annotations(
    entries: list[dict[str, Any]], images: dict[Any, Any], categories: dict[Any, Any], found: Findings
) -> list[dict[str, Any]]:
    """Return the usable annotations, with clipped boxes, and with new ids if any was missing or used twice."""
    kept: list[dict[str, Any]] = []
    ids = Counter(hashable(entry["id"]) for entry in entries if entry.get("id") is not None)
    for number, entry in enumerate(entries):
        where = f"annotation {entry.get('id', f'number {number}')} of image {entry.get('image_id')}"
        if entry.get("id") is None:
            found.add("annotations without an id", where, "note")
        elif ids[hashable(entry["id"])] > 1:
            found.add("annotations with the id of another", where)
        image = images.get(hashable(entry.get("image_id")))
        if image is None:
            found.add("annotations of an unknown image, left out", where)
            continue
        if hashable(entry.get("category_id")) not in categories:
            found.add("annotations of unknown classes, left out", f"{where}: {entry.get('category_id')}", "error")
            continue
        box = read_box(entry.get("bbox"))
        clipped = box if isinstance(box, str) else clip_box(box, (image["width"], image["height"]))
        if isinstance(box, str) or isinstance(clipped, str):
            found.add(f"{clipped}, left out", f"{where}: {entry.get('bbox')}", "error")
            continue
        entry = {**entry, "category_id": categories[hashable(entry["category_id"])]["id"]}
        kept.append(_repaired(entry, box, clipped, image, where, found))
    kept = _without_duplicates(kept, found)
    if len(ids) < len(entries):
        kept = [{**entry, "id": i} for i, entry in enumerate(kept, start=1)]
    return kept


def _repaired(
    entry: dict[str, Any], box: list[float], clipped: list[float], image: dict[str, Any], where: str, found: Findings
) -> dict[str, Any]:
    """Return one annotation with its box inside the image and an area that fits."""
    w, h = box[2:]
    area = fitting_area(entry, w, h)
    if overhang(box, (image["width"], image["height"])) > CLIP_TOLERANCE:
        found.add("boxes over the image border, clipped", f"{where}: {entry['bbox']}")
        box = clipped
    if min(w, h) < 1:
        found.add("boxes with a side under 1 px", f"{where}: {entry['bbox']}", "note")
    if w * h > 0.9 * image["width"] * image["height"]:
        found.add("boxes as large as their image", f"{where}: {entry['bbox']}", "note")
    if area is None:
        area = box[2] * box[3]
        if entry.get("area") is None:
            found.add("annotations without an area, replaced by width x height", where, "note")
        else:
            kind = "areas that do not fit their box, replaced by width x height"
            found.add(kind, f"{where}: {entry['area']} for {entry['bbox']}")
    area = min(area, box[2] * box[3])
    if "ignore" in entry and bool(entry["ignore"]) != bool(entry.get("iscrowd", 0)):
        found.add("annotations whose ignore and iscrowd disagree", where, "note")
    ignored = int(is_ignored(entry))
    standard = {"bbox": box, "area": area, "iscrowd": ignored, "ignore": ignored}
    others = {k: v for k, v in entry.items() if k not in standard}
    return {**without_nan(others, where, found), **standard}


def _without_duplicates(entries: list[dict[str, Any]], found: Findings) -> list[dict[str, Any]]:
    """Return the entries without boxes that repeat another of their class exactly; near repetitions stay."""
    groups: dict[tuple[Any, Any, int], list[int]] = defaultdict(list)
    for i, entry in enumerate(entries):
        groups[hashable(entry["image_id"]), hashable(entry["category_id"]), entry["iscrowd"]].append(i)
    dropped: set[int] = set()
    for (image, _, _), members in groups.items():
        boxes = np.array([entries[i]["bbox"] for i in members], dtype=np.float64)
        low, high = np.split(xywh_to_xyxy(boxes), 2, axis=1)
        for j in range(1, len(members)):  # one row at a time: a matrix for 2,000 objects would be large
            sides = (np.minimum(high[j], high[:j]) - np.maximum(low[j], low[:j])).clip(0)
            inter = sides.prod(axis=1)
            iou = inter / (boxes[j, 2:].prod() + boxes[:j, 2:].prod(axis=1) - inter)
            where = f"image {image}: {entries[members[j]]['bbox']}"
            if (boxes[:j] == boxes[j]).all(axis=1).any():
                found.add("boxes that repeat another of their class, once kept", where)
                dropped.add(members[j])
            elif (iou >= _NEAR).any():
                found.add(f"boxes that nearly repeat another of their class (IoU >= {_NEAR})", where, "note")
    return [entry for i, entry in enumerate(entries) if i not in dropped]


def _check_totals(
    images: dict[Any, Any], categories: dict[Any, Any], annotations: list[dict[str, Any]], found: Findings
) -> None:
    used = {hashable(a["category_id"]) for a in annotations}
    for category in {hashable(c["id"]): c for c in categories.values()}.values():
        if hashable(category["id"]) not in used:
            found.add("classes without an object", category["name"], "note")
    with_objects = {hashable(a["image_id"]) for a in annotations}
    empty = [image["file_name"] for key, image in images.items() if key not in with_objects]
    if empty:
        found.add("images without an object", empty[0], "note", len(empty))
    if not images:
        found.add("no image is left", "nothing to train on", "error")
    elif not annotations:
        found.add("no object is left", "nothing to learn", "error")
