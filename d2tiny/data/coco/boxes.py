"""Boxes of COCO json in px: XYWH (left, top, width, height), XYXY (corners), and the rule which boxes can be used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from d2tiny.data.coco.values import parse_number

__all__ = [
    "BOX_PROBLEMS",
    "CLIP_TOLERANCE",
    "MAX_COORDINATE",
    "box_problem",
    "box_xyxy_to_xywh",
    "clip_box",
    "clip_boxes",
    "fitting_area",
    "fitting_areas",
    "has_area",
    "overhang",
    "read_box",
    "xywh_to_xyxy",
    "xyxy_to_xywh",
]

# Why a box cannot be used. Readers and converters count these texts as findings, some with ", left out" behind them.
BOX_PROBLEMS = (
    "boxes that are not four numbers",
    "boxes with NaN or infinity",
    "boxes without area",
    "boxes outside their image",
    "boxes larger than any image",
)
CLIP_TOLERANCE = 0.01  # px by which a box must change to count as clipped: files round their numbers
MAX_COORDINATE = 1e9  # px; larger numbers are mistakes, and their products overflow
_MIN_SIDE = 1e-6  # px; smaller sides vanish when they are added to a position
_NOT_FOUR_NUMBERS, _NOT_FINITE, _NO_AREA, _OUTSIDE, _TOO_LARGE = BOX_PROBLEMS


def xywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """Return the corners (..., 4) XYXY of boxes (..., 4) XYWH, in the same dtype."""
    return np.concatenate((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), axis=-1)


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """Return boxes (..., 4) XYWH from corners (..., 4) XYXY, in the same dtype."""
    return np.concatenate((boxes[..., :2], boxes[..., 2:] - boxes[..., :2]), axis=-1)


def box_xyxy_to_xywh(box: Sequence[float]) -> tuple[float, float, float, float]:
    """Return one box as XYWH from its corners XYXY, as Python numbers."""
    x1, y1, x2, y2 = box
    return x1, y1, x2 - x1, y2 - y1


def read_box(value: Any) -> list[float] | str:
    """Read the value of a ``bbox`` key.

    A list of four numbers, also written as text, or an object with the keys ``"0"`` to ``"3"``, as which JavaScript
    writes its arrays of floats.

    Returns:
        Four finite floats XYWH, or the reason from :data:`BOX_PROBLEMS`.
    """
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value)] if value.keys() == {"0", "1", "2", "3"} else None
    if not isinstance(value, list | tuple | np.ndarray) or len(value) != 4:
        return _NOT_FOUR_NUMBERS
    box = [parse_number(v) for v in value]
    numbers = [v for v in box if v is not None]
    if len(numbers) < 4:
        return _NOT_FOUR_NUMBERS
    return _range_problem(numbers) or numbers


def _range_problem(box: Sequence[float]) -> str | None:
    x, y, w, h = box
    if abs(x) + abs(y) + abs(w) + abs(h) <= MAX_COORDINATE:  # fast, and false for NaN
        return None
    if not all(map(math.isfinite, box)):
        return _NOT_FINITE
    return None if all(abs(v) <= MAX_COORDINATE for v in box) else _TOO_LARGE


def clip_box(box: Sequence[float], size: Sequence[float]) -> list[float] | str:
    """Clip one box to its image.

    Args:
        box: XYWH.
        size: width and height of the image in px.

    Returns:
        The XYWH box inside the image, or the reason from :data:`BOX_PROBLEMS` to leave it out.
    """
    x, y, w, h = box
    problem = _range_problem(box)
    if problem:
        return problem
    if not has_area(box):
        return _NO_AREA
    clipped = box_xyxy_to_xywh((max(x, 0.0), max(y, 0.0), min(x + w, size[0]), min(y + h, size[1])))
    return list(clipped) if has_area(clipped) else _OUTSIDE


def clip_boxes(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply the rule of :func:`clip_box` to an array, many times faster.

    Args:
        boxes: (N, 4) float64 XYWH.
        sizes: (N, 2) width and height of each box's image in px.

    Returns:
        The clipped boxes (N, 4) XYWH, and (N,) int8 indices into :data:`BOX_PROBLEMS`, -1 where the box can be used.
        Clipped boxes with a problem are undefined.
    """
    corners = xywh_to_xyxy(boxes)
    low, high = np.maximum(corners[:, :2], 0.0), np.minimum(corners[:, 2:], sizes)
    problems = np.full(len(boxes), -1, dtype=np.int8)
    # From the last reason to the first, so that the first one that holds is kept, as in clip_box.
    for reason, broken in (
        (_OUTSIDE, (high - low < _MIN_SIDE).any(axis=1)),
        (_NO_AREA, (boxes[:, 2:] < _MIN_SIDE).any(axis=1)),
        (_TOO_LARGE, (np.abs(boxes) > MAX_COORDINATE).any(axis=1)),
        (_NOT_FINITE, ~np.isfinite(boxes).all(axis=1)),
    ):
        problems[broken] = BOX_PROBLEMS.index(reason)
    return xyxy_to_xywh(np.concatenate((low, high), axis=1)), problems


def box_problem(box: Sequence[float], size: Sequence[float]) -> str | None:
    """Return why an XYWH box cannot be used in an image of this (width, height), or None."""
    clipped = clip_box(box, size)
    return clipped if isinstance(clipped, str) else None


def has_area(box: Sequence[float]) -> bool:
    """Return whether the width and the height of an XYWH box are positive, and not lost in rounding."""
    return box[2] >= _MIN_SIDE and box[3] >= _MIN_SIDE


def overhang(box: Sequence[float], size: Sequence[float]) -> float:
    """Return by how many px an XYWH box exceeds an image of this (width, height); negative inside it."""
    x, y, w, h = box
    return max(-x, -y, x + w - size[0], y + h - size[1])


def fitting_area(annotation: Mapping[str, Any], width: float, height: float) -> float | None:
    """Return the annotation's area in px², or None if it is missing, no number, or larger than its box."""
    area = parse_number(annotation.get("area"))
    return area if area is not None and 0 < area <= _largest_area(width, height) else None


def fitting_areas(area: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Apply the rule of :func:`fitting_area` to arrays.

    Args:
        area: (N,) px².
        boxes: (N, 4) XYWH.

    Returns:
        (N,) float64: the area where it fits its box, elsewhere width × height.
    """
    w, h = boxes[:, 2], boxes[:, 3]
    return np.where((area > 0) & (area <= _largest_area(w, h)), area, w * h)


def _largest_area(width: Any, height: Any) -> Any:
    """Return the largest area of an object in its box: files round, and some count pixels at both ends."""
    return width * height * 1.01 + 1
