"""Loops of :mod:`d2tiny.inference.merge`: pairs of views that agree, groups of views, objects of groups."""

from __future__ import annotations

import numpy as np

from d2tiny.utils.compiled import njit_or_python

__all__ = ["cut_sides", "group_views", "hold_open", "inside_other", "represent"]

_CELL = 32.0  # px, of the grid in which neighbours are looked for


@njit_or_python(cache=True, inline="always")
def _bucket(x: int, y: int, size: int) -> int:
    return ((x * 73856093) ^ (y * 19349663)) & (size - 1)


@njit_or_python(cache=True)
def _neighbours(
    boxes: np.ndarray, tiles: np.ndarray, margin: float, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of a query (Q,) and a box of another tile that meet within a margin, as indices (P,), (P,)."""
    low = np.floor((boxes[:, :2] - margin) / _CELL).astype(np.int64)
    high = np.floor((boxes[:, 2:] + margin) / _CELL).astype(np.int64)
    total = 0
    for i in range(len(boxes)):
        total += (high[i, 0] - low[i, 0] + 1) * (high[i, 1] - low[i, 1] + 1)
    size = 16
    while size < total:
        size *= 2
    head, following, of = np.full(size, -1, np.int32), np.empty(total, np.int32), np.empty(total, np.int32)
    k = 0
    for i in range(len(boxes)):
        for y in range(low[i, 1], high[i, 1] + 1):
            for x in range(low[i, 0], high[i, 0] + 1):
                bucket = _bucket(x, y, size)
                following[k], head[bucket], of[k] = head[bucket], k, i
                k += 1
    left, right = np.empty(4 * len(queries) + 16, np.int64), np.empty(4 * len(queries) + 16, np.int64)
    n = 0
    for j in queries:
        for y in range(low[j, 1], high[j, 1] + 1):
            for x in range(low[j, 0], high[j, 0] + 1):
                e = head[_bucket(x, y, size)]
                while e >= 0:
                    i = of[e]
                    e = following[e]
                    if tiles[i] == tiles[j]:
                        continue
                    x0, x1 = max(boxes[i, 0], boxes[j, 0]) - margin, min(boxes[i, 2], boxes[j, 2]) + margin
                    y0, y1 = max(boxes[i, 1], boxes[j, 1]) - margin, min(boxes[i, 3], boxes[j, 3]) + margin
                    # Each pair once: in the cell where what both cover starts.
                    if x0 < x1 and y0 < y1 and np.floor(x0 / _CELL) == x and np.floor(y0 / _CELL) == y:
                        if n == len(left):
                            left, right = np.append(left, left), np.append(right, right)
                        left[n], right[n] = j, i
                        n += 1
    return left[:n], right[:n]


@njit_or_python(cache=True)
def _agreement(a: np.ndarray, b: np.ndarray, wa: np.ndarray, wb: np.ndarray, tolerance: float) -> float:
    """Return the IoU of two boxes, widened by a tolerance, in the intersection of their tiles."""
    x0, x1 = max(wa[0], wb[0]) - tolerance, min(wa[2], wb[2]) + tolerance
    y0, y1 = max(wa[1], wb[1]) - tolerance, min(wa[3], wb[3]) + tolerance
    ax0, ay0 = max(a[0] - tolerance, x0), max(a[1] - tolerance, y0)
    ax1, ay1 = min(a[2] + tolerance, x1), min(a[3] + tolerance, y1)
    bx0, by0 = max(b[0] - tolerance, x0), max(b[1] - tolerance, y0)
    bx1, by1 = min(b[2] + tolerance, x1), min(b[3] + tolerance, y1)
    if ax0 >= ax1 or ay0 >= ay1 or bx0 >= bx1 or by0 >= by1:
        return 0.0
    w, h = min(ax1, bx1) - max(ax0, bx0), min(ay1, by1) - max(ay0, by0)
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - w * h)


@njit_or_python(cache=True)
def _share_a_tile(i: int, j: int, tiles: np.ndarray, following: np.ndarray) -> bool:
    """Return whether two groups, circular lists, have views of one tile."""
    a = i
    while True:
        b = j
        while True:
            if tiles[a] == tiles[b]:
                return True
            b = following[b]
            if b == j:
                break
        a = following[a]
        if a == i:
            return False


@njit_or_python(cache=True)
def group_views(
    boxes: np.ndarray,
    classes: np.ndarray,
    tiles: np.ndarray,
    windows: np.ndarray,
    group: np.ndarray,
    following: np.ndarray,
    first_new: int,
    agreement: float,
    tolerance: float,
) -> None:
    """Join views that agree, the best pairs first; a group never gets two views of one tile.

    Args:
        boxes: (N, 4) XYXY in px of the scene.
        classes: (N,).
        tiles: (N,), the tile of each view.
        windows: (M, 4), the tiles in px of the scene.
        group: (N,), number of each view's group; changed.
        following: (N,), the next view of the group, in a circle; changed.
        first_new: views from here on are new; pairs of earlier ones were looked at before.
        agreement: least agreement.
        tolerance: px by which boxes are widened.
    """
    right, left = _neighbours(boxes, tiles, tolerance, np.arange(first_new, len(boxes)))
    rank, n = np.empty(len(left)), 0
    for k in range(len(left)):
        i, j = left[k], right[k]
        if i >= j:
            continue  # found from both sides
        q = _agreement(boxes[i], boxes[j], windows[tiles[i]], windows[tiles[j]], tolerance)
        if q >= agreement:
            # Pairs of one class before those of two.
            rank[n] = -q - (1.0 if classes[i] == classes[j] else 0.0)
            left[n], right[n] = i, j
            n += 1
    # Stable: equal pairs in the order of their views.
    for k in np.argsort(rank[:n], kind="mergesort"):
        i, j = left[k], right[k]
        if group[i] == group[j] or _share_a_tile(i, j, tiles, following):
            continue
        v, number = j, group[i]
        while group[v] != number:
            group[v] = number
            v = following[v]
        following[i], following[j] = following[j], following[i]


@njit_or_python(cache=True)
def hold_open(
    boxes: np.ndarray, tiles: np.ndarray, group: np.ndarray, following: np.ndarray, still: np.ndarray, share: float
) -> None:
    """Hold groups open that overlap with open ones: what is double, or a part, is decided when all is known.

    Args:
        boxes: (N, 4) XYXY in px of the scene.
        tiles: (N,), the tile of each view.
        group: (N,), number of each view's group.
        following: (N,), the next view of the group, in a circle.
        still: (N,), whether the group of each view is open; changed.
        share: of the smaller of two boxes that must lie in the other.
    """
    queries = np.flatnonzero(still)
    while len(queries):
        left, right = _neighbours(boxes, tiles, 0.0, queries)
        before = still.copy()
        for k in range(len(left)):
            i, j = left[k], right[k]
            if still[j]:
                continue
            w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            a = (boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1])
            b = (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1])
            if w * h < share * min(a, b):
                continue
            v = j
            while not still[v]:
                still[v] = True
                v = following[v]
        queries = np.flatnonzero(still & ~before)


@njit_or_python(cache=True)
def cut_sides(
    boxes: np.ndarray, tiles: np.ndarray, windows: np.ndarray, width: int, height: int, edge: float, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return which sides of each view (N, 4) an inner edge of its tile may cut, and its distance (N,) from these."""
    cut, distance = np.zeros((len(boxes), 4), np.bool_), np.empty(len(boxes))
    for i in range(len(boxes)):
        window = windows[tiles[i]]
        far = np.inf
        for side in range(4):
            border = (0.0, 0.0, float(width), float(height))[side]
            if window[side] == border:
                continue  # the border of the scene
            d = abs(boxes[i, side] - window[side])
            length = boxes[i, 2 + side % 2] - boxes[i, side % 2]
            cut[i, side] = d < max(edge, share * length)
            far = min(far, d)
        distance[i] = far
    return cut, distance


@njit_or_python(cache=True)
def represent(
    boxes: np.ndarray,
    scores: np.ndarray,
    tiles: np.ndarray,
    following: np.ndarray,
    cut: np.ndarray,
    distance: np.ndarray,
    done: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the object of each group that is done.

    Returns:
        boxes (K, 4), the view (K,) whose score and class they have, and whether the object is one cut view alone (K,).
    """
    n = 0
    seen = ~done
    result, leader, alone = np.empty((len(boxes), 4)), np.empty(len(boxes), np.int64), np.zeros(len(boxes), np.bool_)
    for i in range(len(boxes)):
        if seen[i]:
            continue
        whole, best = -1, i
        v = i
        while True:
            seen[v] = True
            if not cut[v].any() and (whole < 0 or _nearer_the_middle(v, whole, distance, tiles)):
                whole = v
            if scores[v] > scores[best]:
                best = v
            v = following[v]
            if v == i:
                break
        for side in range(4):
            result[n, side] = _side(i, side, whole >= 0, boxes, following, cut, distance)
        leader[n], alone[n] = (whole, False) if whole >= 0 else (best, following[i] == i)
        n += 1
    return result[:n], leader[:n], alone[:n]


@njit_or_python(cache=True, inline="always")
def _nearer_the_middle(v: int, other: int, distance: np.ndarray, tiles: np.ndarray) -> bool:
    return distance[v] > distance[other] or (distance[v] == distance[other] and tiles[v] < tiles[other])


@njit_or_python(cache=True)
def _side(
    i: int,
    side: int,
    whole: bool,
    boxes: np.ndarray,
    following: np.ndarray,
    cut: np.ndarray,
    distance: np.ndarray,
) -> float:
    """Return one side of a group's box: the mean of the views that see it, or the outermost if all may be cut.

    Views count by the square of their distance from the edges of their tile: one in the middle of a tile has the
    context that it would have in the whole scene.
    """
    total, weights, outermost = 0.0, 0.0, boxes[i, side]
    v = i
    while True:
        trusted = not cut[v].any() if whole else not cut[v, side]
        if trusted:
            weight = min(distance[v], 1e6) ** 2 + 1e-6
            total += weight * boxes[v, side]
            weights += weight
        outermost = max(outermost, boxes[v, side]) if side >= 2 else min(outermost, boxes[v, side])
        v = following[v]
        if v == i:
            return total / weights if weights > 0 else outermost


@njit_or_python(cache=True)
def inside_other(
    boxes: np.ndarray,
    classes: np.ndarray,
    tiles: np.ndarray,
    candidates: np.ndarray,
    share: float,
) -> np.ndarray:
    """Return which candidates (N,) lie, by a share of their area, in a larger view of their class in another tile."""
    inside = np.zeros(len(boxes), np.bool_)
    left, right = _neighbours(boxes, tiles, 0.0, np.flatnonzero(candidates))
    for k in range(len(left)):
        i, j = left[k], right[k]
        area = (boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1])
        if classes[i] == classes[j] and area < (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1]):
            w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            inside[i] |= w * h >= share * area
    return inside
