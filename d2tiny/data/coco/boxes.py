"""Boxes of COCO json in px: XYWH (left, top, width, height), XYXY (corners), and the rule which boxes can be used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "BOX_PROBLEMS",
    "CLIP_TOLERANCE",
    "box_problem",
    "box_xyxy_to_xywh",
    "clip_box",
    "clip_boxes",
    "fitting_area",
    "has_area",
    "is_ignored",
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
)
CLIP_TOLERANCE = 0.01  # px by which a box must change to count as clipped: files round their numbers
_NOT_FOUR_NUMBERS, _NOT_FINITE, _NO_AREA, _OUTSIDE = BOX_PROBLEMS


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

    Returns:
        Four finite floats XYWH (numbers written as text count), or the reason from :data:`BOX_PROBLEMS`.
    """
    try:
        box = [float(v) for v in value]
    except (TypeError, ValueError):
        return _NOT_FOUR_NUMBERS
    if len(box) != 4:
        return _NOT_FOUR_NUMBERS
    return box if all(map(math.isfinite, box)) else _NOT_FINITE


def clip_box(box: Sequence[float], size: Sequence[float]) -> list[float] | str:
    """Clip one box to its image.

    Args:
        box: XYWH.
        size: width and height of the image in px.

    Returns:
        The XYWH box inside the image, or the reason from :data:`BOX_PROBLEMS` to leave it out.
    """
    x, y, w, h = box
    if not all(map(math.isfinite, box)):
        return _NOT_FINITE
    if not has_area(box):
        return _NO_AREA
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, size[0]), min(y + h, size[1])
    return list(box_xyxy_to_xywh((x1, y1, x2, y2))) if x1 < x2 and y1 < y2 else _OUTSIDE


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
        (_OUTSIDE, (low >= high).any(axis=1)),
        (_NO_AREA, (boxes[:, 2:] <= 0).any(axis=1)),
        (_NOT_FINITE, ~np.isfinite(boxes).all(axis=1)),
    ):
        problems[broken] = BOX_PROBLEMS.index(reason)
    return xyxy_to_xywh(np.concatenate((low, high), axis=1)), problems


def box_problem(box: Sequence[float], size: Sequence[float]) -> str | None:
    """Return why an XYWH box cannot be used in an image of this (width, height), or None."""
    clipped = clip_box(box, size)
    return clipped if isinstance(clipped, str) else None


def has_area(box: Sequence[float]) -> bool:
    """Return whether the width and the height of an XYWH box are positive."""
    return box[2] > 0 and box[3] > 0


def overhang(box: Sequence[float], size: Sequence[float]) -> float:
    """Return by how many px an XYWH box exceeds an image of this (width, height); negative inside it."""
    x, y, w, h = box
    return max(-x, -y, x + w - size[0], y + h - size[1])


def fitting_area(annotation: Mapping[str, Any], width: float, height: float) -> float | None:
    """Return the annotation's area in px², or None if it is missing, no number, or larger than its box."""
    area = annotation.get("area")
    if isinstance(area, bool) or not isinstance(area, int | float) or not 0 < area <= width * height * 1.01 + 1:
        return None
    return float(area)


def is_ignored(annotation: Mapping[str, Any]) -> bool:
    """Return whether ``iscrowd`` or ``ignore`` marks a region that is neither learned nor evaluated."""
    return bool(annotation.get("iscrowd", 0)) or bool(annotation.get("ignore", 0))
