"""Read the annotations and regions of a COCO json one by one, by the rules that all readers share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from d2tiny.data.coco.boxes import BOX_PROBLEMS, MAX_COORDINATE, box_xyxy_to_xywh, read_box
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.values import parse_flag, parse_id

__all__ = [
    "Label",
    "note_texts",
    "read_annotation",
    "read_annotation_box",
    "read_ignored",
    "read_outline",
    "read_regions",
    "shown",
    "with_usable_outline",
    "without_nan",
]

_DEEPEST = 50  # levels of lists and objects in other keys; Python's own limit is near a thousand
_UNKNOWN_FLAGS = "marks that are neither true nor false, taken as ignored"


class Label(NamedTuple):
    """What an annotation says: numbers of its image and category, XYWH box in px, whether it is ignored."""

    image: int
    category: int
    box: tuple[float, float, float, float]
    ignored: bool


def shown(value: Any, length: int = 80) -> str:
    """Return a value as a message shows it: at most ``length`` characters, whatever the file holds."""
    try:
        text = str(value)
    except (RecursionError, ValueError):  # nested too deep, or a number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= length else f"{text[: length - 3]}..."


def read_annotation(
    entry: Mapping[str, Any], images: Mapping[int | str, int], categories: Mapping[int | str, int], findings: Findings
) -> Label | None:
    """Read one annotation.

    Args:
        entry: of the json.
        images: number of each image id, see :func:`~d2tiny.data.coco.document.image_numbers`.
        categories: number of each category id likewise.
        findings: gets why an annotation cannot be used, and what is odd about it.
    """
    where = f"annotation id {shown(entry.get('id'))} of image id {shown(entry.get('image_id'))}"
    image, category = _number(images, entry.get("image_id")), _number(categories, entry.get("category_id"))
    if image is None:
        findings.add("annotations of an unknown image", where)
        return None
    if category is None:
        findings.add("annotations of an unknown category", where)
        return None
    box = read_annotation_box(entry, where, findings)
    if isinstance(box, str):
        findings.add(box, f"{where}, bbox {shown(entry.get('bbox'))}")
        return None
    x, y, w, h = box
    return Label(image, category, (x, y, w, h), read_ignored(entry, where, findings))


def _number(numbers: Mapping[int | str, int], raw: Any) -> int | None:
    key = parse_id(raw)
    return None if key is None else numbers.get(key)


def read_annotation_box(entry: Mapping[str, Any], where: str, findings: Findings) -> list[float] | str:
    """Return an annotation's XYWH box, that of its outline where ``bbox`` is missing, or why there is none."""
    value = entry.get("bbox")
    if value is not None and value != []:
        return read_box(value)
    outline = read_outline(entry.get("segmentation"))
    if outline is None:
        return BOX_PROBLEMS[0]
    findings.add("missing boxes, taken from their outlines", where, "note")
    xs, ys = ([v for polygon in outline for v in polygon[start::2]] for start in (0, 1))
    return [float(v) for v in box_xyxy_to_xywh((min(xs), min(ys), max(xs), max(ys)))]


def read_ignored(entry: Mapping[str, Any], where: str, findings: Findings) -> bool:
    """Return whether ``iscrowd`` or ``ignore`` marks a region that is neither learned nor evaluated.

    A mark without a meaning counts as set, and is a finding: an object that may not be one is not learned.
    """
    ignored = False
    for key in ("iscrowd", "ignore"):
        value = entry.get(key)
        if type(value) is int and value == 0:  # nearly all
            continue
        flag = parse_flag(value)
        if flag is None:
            findings.add(_UNKNOWN_FLAGS, f"{where}: {key} {shown(value)}")
        ignored |= flag is not False
    return ignored


def note_texts(entry: Mapping[str, Any], keys: Sequence[str], where: str, findings: Findings) -> None:
    """Count an entry whose numbers are written as texts, or whose box is an object: other tools misread that."""
    for key in keys:
        value = entry.get(key)
        parts = value if key == "bbox" and isinstance(value, list) else [value]
        is_text = any(isinstance(part, str) and part for part in parts) and key not in ("id", "image_id")
        if is_text or (isinstance(value, str) and isinstance(parse_id(value), int)) or isinstance(value, dict):
            kind = "numbers and marks that COCO writes otherwise, converted where they have a meaning"
            findings.add(kind, f"{where}: {key} {shown(value)!r}", "note")


def read_outline(value: Any) -> list[list[float]] | None:
    """Return the polygons (x1, y1, x2, y2, ... in px) of a ``segmentation``, or None if it is anything else."""
    if not isinstance(value, list) or not value:
        return None
    return value if all(map(_is_polygon, value)) else None


def _is_polygon(value: Any) -> bool:
    if not isinstance(value, list) or len(value) < 6 or len(value) % 2:
        return False
    return all(type(v) in (int, float) and abs(v) <= MAX_COORDINATE for v in value)  # NaN is not


def with_usable_outline(entry: dict[str, Any], where: str, findings: Findings) -> dict[str, Any]:
    """Return an annotation whose ``segmentation`` is polygons, a run-length mask, or left out and counted."""
    value = entry.get("segmentation")
    if value is None or value == [] or read_outline(value) is not None:
        return entry
    if isinstance(value, dict) and value.keys() >= {"counts", "size"}:
        return entry
    findings.add("outlines that are no polygons, left out", f"{where}: {shown(value)}")
    return {key: v for key, v in entry.items() if key != "segmentation"}


def read_regions(image: Mapping[str, Any], key: str, findings: Findings) -> list[tuple[float, float, float, float]]:
    """Return an image's XYWH boxes under ``ignored_regions`` or ``ignored_boxes``; what is no box is counted."""
    boxes = image.get(key)
    result = []
    for value in boxes if isinstance(boxes, list) else []:
        box = read_box(value)
        if isinstance(box, str):
            findings.add(f"{box}, left out", f"image {shown(image.get('id'))}, {key}: {shown(value)}")
        else:
            result.append((box[0], box[1], box[2], box[3]))
    if boxes is not None and not isinstance(boxes, list):
        findings.add(f"{BOX_PROBLEMS[0]}, left out", f"image {shown(image.get('id'))}, {key}: {shown(boxes)}")
    return result


def without_nan(entry: Mapping[str, Any], where: str, findings: Findings) -> dict[str, Any]:
    """Return the keys whose values a json can hold; NaN and infinity are no json, their keys are counted."""
    kept = {}
    for key, value in entry.items():
        if _storable(value):
            kept[key] = value
        else:
            findings.add("other keys with NaN or infinity, left out", f"{where}: {key}")
    return kept


def _storable(value: Any, depth: int = 0) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple | dict):
        parts = value.values() if isinstance(value, dict) else value
        return depth < _DEEPEST and all(_storable(part, depth + 1) for part in parts)
    return True
