"""Keys of annotations that hold places, such as keypoints, and how tiles and smaller images change them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from d2tiny.data.coco.boxes import MAX_COORDINATE
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.values import parse_number

__all__ = ["movable_keys", "moved_keys", "scaled_keys"]

_OTHER_RULES = frozenset({"id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "segmentation"})
# Rotated boxes (centre, width, height, angle) and outlines (x1, y1, x2, y2, ...) in px, as exporters name them.
_OUTLINES = frozenset(
    {"corners", "obb", "points", "poly", "polygon", "quad", "rbbox", "rbox", "rotated_bbox", "rotated_box"}
)
_COORDINATE = re.compile(r"(c|center_?)?[xy][1-4]?|[xy]_?(min|max|c|center)|left|top|right|bottom", re.IGNORECASE)
_DEEPEST = 20  # levels of lists and objects


def movable_keys(annotation: Mapping[str, Any], box: Sequence[float], where: str, findings: Findings) -> dict[str, Any]:
    """Return an annotation without the keys that hold places that nobody knows how to move or scale.

    Args:
        annotation: of a COCO json.
        box: its XYWH box in px; places that lie outside it are no px of the image.
        where: place of the annotation, for the findings.
        findings: gets the keys that are left out.
    """
    kept: dict[str, Any] = {}
    for key, value in annotation.items():
        if key in _OTHER_RULES or _can_be_moved(key, value, box):
            kept[key] = value
        else:
            findings.add("keys that may hold positions in the image, not copied", f"{where}: {key}")
    if "keypoints" in annotation.keys() - kept.keys():
        kept.pop("num_keypoints", None)
    return kept


def moved_keys(
    annotation: Mapping[str, Any], x: int, y: int, width: int, height: int, *, whole: bool
) -> dict[str, Any]:
    """Return the keys of an annotation of :func:`movable_keys` as a tile sees them.

    Keypoints outside the tile become (0, 0, 0), which is COCO's mark for unlabelled ones. Rotated boxes and outlines of
    objects that the tile cuts are left out.

    Args:
        annotation: what :func:`movable_keys` returned.
        x: left border of the tile in px.
        y: upper border of the tile in px.
        width: of the tile in px.
        height: of the tile in px.
        whole: the object lies in the tile as a whole.
    """
    result: dict[str, Any] = {}
    for key, value in annotation.items():
        if key == "keypoints" and value:
            points = [(px - x, py - y, v) for px, py, v in zip(value[::3], value[1::3], value[2::3], strict=True)]
            inside = [v > 0 and 0 <= px <= width and 0 <= py <= height for px, py, v in points]
            result[key] = [
                n for point, seen in zip(points, inside, strict=True) for n in (point if seen else (0, 0, 0))
            ]
            if "num_keypoints" in annotation:
                result["num_keypoints"] = sum(inside)
        elif key.lower() in _OUTLINES and value:
            if whole:
                result[key] = _shifted(value, x, y)
        elif key != "num_keypoints" or not annotation.get("keypoints"):
            result[key] = value
    return result


def scaled_keys(annotation: Mapping[str, Any], sx: float, sy: float) -> dict[str, Any]:
    """Return the keys of an annotation of :func:`movable_keys`, and its polygons, in an image of another size.

    Args:
        annotation: what :func:`movable_keys` returned.
        sx: new width of the image by its old one.
        sy: new height of the image by its old one. Rotated boxes take the mean of both for their sides.
    """
    result = dict(annotation)
    for key, value in annotation.items():
        if key == "keypoints" and value:
            result[key] = [v * (sx, sy, 1)[i % 3] for i, v in enumerate(value)]
        elif (key.lower() in _OUTLINES or key == "segmentation") and value:
            result[key] = _scaled(value, sx, sy)
    return result


def _can_be_moved(key: str, value: Any, box: Sequence[float]) -> bool:
    if not value:
        return True
    if key == "keypoints":
        return _is_numbers(value) and len(value) % 3 == 0
    if key.lower() in _OUTLINES:
        places = list(_places(value))
        return bool(places) and _is_near(places, box)
    return not _may_hold_places(key, value, 0)


def _is_numbers(value: Any) -> bool:
    """Return whether a value is a list of numbers that may be coordinates; NaN is none."""
    return isinstance(value, list) and all(type(v) in (int, float) and abs(v) <= MAX_COORDINATE for v in value)


def _places(value: Any) -> Iterator[tuple[float, float]]:
    """Yield the points of an outline, or the centre of a rotated box; nothing for what is neither."""
    parts = value if isinstance(value, list) and all(isinstance(part, list) for part in value) else [value]
    if not all(_is_numbers(part) for part in parts):
        return
    if all(len(part) == 2 for part in parts) or all(len(part) >= 6 and len(part) % 2 == 0 for part in parts):
        yield from ((x, y) for part in parts for x, y in zip(part[::2], part[1::2], strict=True))
    elif len(parts) == 1 and len(parts[0]) == 5:
        yield parts[0][0], parts[0][1]


def _shifted(value: Sequence[Any], x: int, y: int) -> list[Any]:
    """Return an outline or a rotated box relative to a tile."""
    if isinstance(value[0], list):
        return [_shifted(part, x, y) for part in value]
    if len(value) == 5:
        return [value[0] - x, value[1] - y, *value[2:]]
    return [v - (x, y)[i % 2] for i, v in enumerate(value)]


def _scaled(value: Sequence[Any], sx: float, sy: float) -> list[Any]:
    """Return an outline or a rotated box in an image of another size."""
    if isinstance(value[0], list):
        return [_scaled(part, sx, sy) for part in value]
    if len(value) == 5:
        mean = (sx + sy) / 2
        return [value[0] * sx, value[1] * sy, value[2] * mean, value[3] * mean, value[4]]
    return [v * (sx, sy)[i % 2] for i, v in enumerate(value)]


def _is_near(places: Sequence[tuple[float, float]], box: Sequence[float]) -> bool:
    """Return whether the middle of the places lies in an XYWH box: they are px, not shares of the image."""
    left, top, width, height = box
    x, y = (sum(place[axis] for place in places) / len(places) for axis in (0, 1))
    return left - 1 <= x <= left + width + 1 and top - 1 <= y <= top + height + 1


def _may_hold_places(key: str, value: Any, depth: int) -> bool:
    """Return whether a value has lists of several numbers, or numbers under the name of a coordinate."""
    if isinstance(value, dict):
        return depth >= _DEEPEST or any(_may_hold_places(str(k), v, depth + 1) for k, v in value.items())
    if isinstance(value, list):
        if sum(parse_number(v) is not None for v in value) > 1:
            return not key.lower().endswith("ids")
        return depth >= _DEEPEST or any(_may_hold_places(key, v, depth + 1) for v in value)
    return _COORDINATE.fullmatch(key) is not None and parse_number(value) is not None
