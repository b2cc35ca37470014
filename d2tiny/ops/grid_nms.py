"""Greedy non-maximum suppression by IoU in linear time: kept boxes wait in the cells of grids, one grid a size."""

from __future__ import annotations

import math

import numpy as np

from d2tiny.utils.compiled import COMPILED, njit_or_python

__all__ = ["LEAST_THRESHOLD", "grid_nms"]

# Below it, boxes of very different sizes suppress each other, and the grids gain nothing.
LEAST_THRESHOLD = 0.15
_LEVELS = 64  # sizes in octaves, from 2^-31 px on
_FIRST = 31


def grid_nms(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, threshold: float) -> np.ndarray:
    """Apply greedy NMS within each group.

    The same result as comparing each box with every better kept one, in the same single-precision arithmetic: boxes
    whose IoU exceeds a threshold t have sides of a ratio of at least t, and centres apart by less than
    (1 − t) / (1 + t) of their mean side in x and in y. So only the cells of a few grids have to be looked at.

    Args:
        boxes: (N, 4) float32, XYXY in px.
        scores: (N,) float32; NaN counts as best.
        groups: (N,) integers from 0 to 2^31 - 1; boxes of different groups never suppress each other.
        threshold: a box is suppressed if its IoU with a better kept box exceeds this, in [``LEAST_THRESHOLD``, 1].

    Returns:
        Indices (K,) int64 of the kept boxes by descending score; equal scores keep their input order.
    """
    ranks = _ranks(scores)
    order = _stable_argsort(groups.astype(np.int64) << 32 | ranks)
    ends = np.append(np.flatnonzero(np.diff(groups[order])) + 1, len(boxes))
    if COMPILED:
        keep = _suppress_groups(boxes[order], ends, threshold, math.ceil(-math.log2(threshold)))
    else:
        keep = _suppress_by_rows(boxes[order], ends, threshold)
    kept = order[keep]
    kept.sort()
    return kept[_stable_argsort(ranks[kept])]


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Return (N,) int64 from 0 to 2^32 - 1 that rise where scores fall, and are equal where these are."""
    bits = (scores + np.float32(0)).view(np.int32).astype(np.int64)  # no negative zero
    return np.where(bits < 0, bits & 0xFFFFFFFF, 0x7FFFFFFF - bits)


def _stable_argsort(keys: np.ndarray) -> np.ndarray:
    """Return the indices (N,) that sort integers, equal ones in their order; several times faster than a stable sort.

    numpy sorts integers with vector instructions, but not stably, so equal ones are put right afterwards.
    """
    order = np.argsort(keys)
    if (keys[order[1:]] == keys[order[:-1]]).any():
        _sort_runs(keys, order)
    return order


@njit_or_python(cache=True)
def _sort_runs(keys: np.ndarray, order: np.ndarray) -> None:
    """Sort the indices of equal keys in place."""
    start = 0
    for i in range(1, len(order) + 1):
        if i == len(order) or keys[order[i]] != keys[order[start]]:
            if i - start > 1:
                order[start:i] = np.sort(order[start:i])
            start = i


def _suppress_by_rows(boxes: np.ndarray, ends: np.ndarray, threshold: float) -> np.ndarray:
    """Return what :func:`_suppress_groups` does, without a compiler: each kept box against all worse ones of its group.

    The cost grows with the square of a group, but its loop is over the kept boxes only.
    """
    keep = np.zeros(len(boxes), np.bool_)
    limit = np.float64(threshold)  # compared as such, not rounded to single precision
    start = 0
    for end in ends.tolist():
        left = np.arange(start, end)
        while len(left):
            best, left = left[0], left[1:]
            keep[best] = True
            one, others = boxes[best], boxes[left]
            w = np.minimum(one[2], others[:, 2]) - np.maximum(one[0], others[:, 0])
            h = np.minimum(one[3], others[:, 3]) - np.maximum(one[1], others[:, 1])
            sides = others[:, 2:] - others[:, :2]
            inter = w * h
            with np.errstate(all="ignore"):  # boxes without area, or not finite, overlap with nothing
                iou = inter / ((one[2] - one[0]) * (one[3] - one[1]) + sides[:, 0] * sides[:, 1] - inter)
                left = left[~((w > 0) & (h > 0) & (iou > limit) & _has_area(others) & _has_area(one[None]))]
        start = end
    return keep


def _has_area(boxes: np.ndarray) -> np.ndarray:
    """Return (N,) whether boxes have sides over 0 and under 1e9 px, not far from the origin."""
    wide = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    near = (np.abs(boxes[:, :2]) < 1e12).all(axis=1)
    return (wide > 0).all(axis=1) & (wide.max(axis=1) < 1e9) & near


@njit_or_python(cache=True)
def _suppress_groups(boxes: np.ndarray, ends: np.ndarray, threshold: float, octaves: int) -> np.ndarray:
    """Return which boxes are kept; groups lie one behind the other, each with its best box first."""
    keep = np.zeros(len(boxes), np.bool_)
    start, longest = 0, 8
    for end in ends:
        longest = max(longest, end - start)
        start = end
    buckets = 1
    while buckets < longest:
        buckets *= 2
    head = np.empty(buckets, np.int32)
    start = 0
    for end in ends:
        size = 8
        while size < end - start:
            size *= 2
        _suppress(boxes[start:end], threshold, octaves, head[:size], keep[start:end])
        start = end
    return keep


@njit_or_python(cache=True, inline="always")
def _bucket(level: int, x: int, y: int, mask: int) -> np.int64:
    key = np.uint64(x) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(y) * np.uint64(0xC2B2AE3D27D4EB4F)
    key ^= np.uint64(level) * np.uint64(0x165667B19E3779F9)
    return np.int64((key ^ (key >> np.uint64(31))) >> np.uint64(16)) & mask


@njit_or_python(cache=True)
def _suppress(boxes: np.ndarray, threshold: float, octaves: int, head: np.ndarray, keep: np.ndarray) -> None:
    """Write which boxes (best first) are kept; ``octaves`` is by how much the sizes of overlapping boxes may differ."""
    n, mask = len(boxes), len(head) - 1
    head[:] = -1
    following = np.empty(n, np.int32)
    counts = np.zeros(_LEVELS, np.int64)
    # A little more than the bound: it holds for real numbers, the IoU is computed in single precision.
    reach = 0.5 * (1.0 - threshold) / (1.0 + threshold) * 1.0001 + 1e-6
    for i in range(n):
        x1, y1, x2, y2 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        area = (x2 - x1) * (y2 - y1)
        width, height = np.float64(x2) - x1, np.float64(y2) - y1
        side = max(width, height)
        if not (width > 0 and height > 0 and side < 1e9 and abs(x1) < 1e12 and abs(y1) < 1e12):
            keep[i] = True  # without area, or not finite: overlaps with nothing
            continue
        cx, cy = 0.5 * (np.float64(x1) + x2), 0.5 * (np.float64(y1) + y2)
        level = min(_LEVELS - 1, max(0, math.frexp(side)[1] + _FIRST))
        slack = 1e-6 * (abs(cx) + abs(cy))  # rounding of coordinates far from the origin
        suppressed = False
        for other in range(max(0, level - octaves), min(_LEVELS - 1, level + octaves) + 1):
            if counts[other] == 0:
                continue
            cell = 2.0 ** (other - _FIRST)  # the largest side of this level
            rx, ry = reach * (width + cell) + slack, reach * (height + cell) + slack
            left, right = math.floor((cx - rx) / cell), math.floor((cx + rx) / cell)
            for gy in range(math.floor((cy - ry) / cell), math.floor((cy + ry) / cell) + 1):
                for gx in range(left, right + 1):
                    j = head[_bucket(other, gx, gy, mask)]
                    while j >= 0:
                        w = min(x2, boxes[j, 2]) - max(x1, boxes[j, 0])
                        h = min(y2, boxes[j, 3]) - max(y1, boxes[j, 1])
                        if w > 0 and h > 0:
                            inter = w * h
                            # As torchvision: the better box's area first.
                            better = (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1])
                            if inter / (better + area - inter) > threshold:
                                suppressed = True
                                break
                        j = following[j]
                    if suppressed:
                        break
                if suppressed:
                    break
            if suppressed:
                break
        if not suppressed:
            keep[i] = True
            counts[level] += 1
            cell = 2.0 ** (level - _FIRST)
            bucket = _bucket(level, math.floor(cx / cell), math.floor(cy / cell), mask)
            following[i], head[bucket] = head[bucket], i
