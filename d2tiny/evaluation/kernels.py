"""The loops of the evaluation, compiled by numba; `tests/reference/evaluation.py` holds the slow obvious version.

Everything here works on the detections of one class, in falling order of score, so that memory is bounded by the
largest class. Most detections of a detector overlap no object at all: they are settled by one pass over the overlaps,
and only the rest is matched at every threshold and area.
"""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["FALSE", "IGNORED", "TRUE", "accumulate", "best_overlaps", "count_true", "group", "match", "ranks"]

FALSE, TRUE, IGNORED = 0, 1, 2
_MISSED_BY_LIMIT = 3  # beyond the last limit: not there at all


@njit(cache=True)
def group(keys: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Stable counting sort.

    Args:
        keys: (N,) integers in [0, number).
        number: of groups.

    Returns:
        order (N,) int64 that sorts the keys, and starts (number + 1,) int64 of the groups in it.
    """
    starts = np.zeros(number + 1, np.int64)
    for key in keys:
        starts[key + 1] += 1
    for i in range(number):
        starts[i + 1] += starts[i]
    fill = starts[:-1].copy()
    order = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        key = keys[i]
        order[fill[key]] = i
        fill[key] += 1
    return order, starts


@njit(cache=True)
def ranks(keys: np.ndarray, number: int) -> np.ndarray:
    """Position (N,) int32 of each entry within its group, in the order given."""
    seen = np.zeros(number, np.int32)
    result = np.empty(len(keys), np.int32)
    for i in range(len(keys)):
        result[i] = seen[keys[i]]
        seen[keys[i]] += 1
    return result


@njit(cache=True)
def _overlap(d: np.ndarray, g: np.ndarray, ignored: bool, plus: float) -> float:
    """IoU of two XYWH boxes, in COCO's order of operations; of ignored objects the share of the detection."""
    w = min(d[0] + d[2], g[0] + g[2]) - max(d[0], g[0]) + plus
    if w <= 0:
        return 0.0
    h = min(d[1] + d[3], g[1] + g[3]) - max(d[1], g[1]) + plus
    if h <= 0:
        return 0.0
    inter = w * h
    own = (d[2] + plus) * (d[3] + plus)
    union = own if ignored else own + (g[2] + plus) * (g[3] + plus) - inter
    return inter / union if union > 0 else 0.0  # areas may underflow


@njit(cache=True)
def _reaches(overlap: float, threshold: float, strict: bool) -> bool:
    return overlap > threshold if strict else overlap >= threshold


@njit(cache=True)
def _choose(
    overlaps: np.ndarray,
    free: np.ndarray,
    outside: np.ndarray,
    crowd: np.ndarray,
    shared: np.ndarray,
    threshold: float,
    voc: bool,
    strict: bool,
) -> tuple[int, bool]:
    """Position among the candidates of the object that a detection takes, or -1; and whether it comes too late.

    Args:
        overlaps: (C,) of the candidates, in the order of the file.
        free: (C,) not taken yet.
        outside: (C,) ignored in this area.
        crowd: (C,) matchable many times.
        shared: (C,) regions.
        threshold: of the overlap.
        voc: the best object only, taken or not.
        strict: ``>`` instead of ``>=``.
    """
    best, chosen = threshold, -1
    if voc:
        for late in (False, True):  # regions only where no object fits
            if chosen >= 0:
                break
            for c in range(len(overlaps)):
                # the first of equal ones
                better = _reaches(overlaps[c], threshold, strict) if chosen < 0 else overlaps[c] > best
                if shared[c] == late and better:
                    best, chosen = overlaps[c], c
        return chosen, chosen >= 0 and not free[chosen] and not outside[chosen]
    for late in (False, True):  # ignored objects only where no other one fits
        if chosen >= 0:
            break
        for c in range(len(overlaps)):
            if outside[c] != late or not (free[c] or crowd[c]):
                continue
            # COCO's comparison: the later of equal ones
            if overlaps[c] < best or (strict and not overlaps[c] > threshold):
                continue
            best, chosen = overlaps[c], c
    return chosen, False


@njit(cache=True, nogil=True)
def match(
    det_image: np.ndarray,
    det_boxes: np.ndarray,
    det_rank: np.ndarray,
    gt_starts: np.ndarray,
    gt_boxes: np.ndarray,
    gt_area: np.ndarray,
    gt_ignore: np.ndarray,
    gt_shared: np.ndarray,
    areas: np.ndarray,
    thresholds: np.ndarray,
    limit: int,
    voc: bool,
    plus: float,
    strict: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match the detections of one class to its objects.

    Args:
        det_image: (N,) image of each detection, in falling order of score.
        det_boxes: (N, 4) XYWH.
        det_rank: (N,) how many of its image (and class) come before.
        gt_starts: (I + 1,) the objects of image i are ``gt_starts[i]:gt_starts[i + 1]``.
        gt_boxes: (G, 4) XYWH.
        gt_area: (G,) px².
        gt_ignore: (G,) bool.
        gt_shared: (G,) bool, regions: their overlap is the share of the detection under any rule.
        areas: (A, 2) px², closed at both ends.
        thresholds: (T,) IoU.
        limit: detections of lower rank count.
        voc: VOC's matching instead of COCO's.
        plus: added to sides (VOC's integer pixels) or 0.
        strict: a match needs more than the threshold.

    Returns:
        status (N, A, T) uint8: FALSE, TRUE, IGNORED (or beyond the limit);
        matched (N,) int64: object that is taken in the first area at the first threshold, or -1;
        overlap (N, A) float64: IoU with the object taken at the first threshold, or 0.
    """
    n, num_areas, num_thresholds = len(det_image), len(areas), len(thresholds)
    status = np.zeros((n, num_areas, num_thresholds), np.uint8)
    matched = np.full(n, -1, np.int64)
    overlap = np.zeros((n, num_areas), np.float64)
    largest = 1
    for i in range(len(gt_starts) - 1):
        largest = max(largest, gt_starts[i + 1] - gt_starts[i])
    candidates = np.empty(largest, np.int64)
    overlaps = np.empty(largest, np.float64)
    free = np.empty(largest, np.bool_)
    outside = np.empty(largest, np.bool_)
    crowd = np.empty(largest, np.bool_)
    shared = np.empty(largest, np.bool_)
    taken = np.zeros((len(gt_boxes), num_areas, num_thresholds), np.bool_)
    lowest = thresholds.min()
    for s in range(n):
        if det_rank[s] >= limit:
            status[s] = _MISSED_BY_LIMIT
            continue
        box = det_boxes[s]
        area = box[2] * box[3]
        count = 0
        highest = 0.0
        for g in range(gt_starts[det_image[s]], gt_starts[det_image[s] + 1]):
            value = _overlap(box, gt_boxes[g], gt_shared[g] or (gt_ignore[g] and not voc), plus)
            if value >= lowest:
                candidates[count] = g
                overlaps[count] = value
                crowd[count] = gt_ignore[g]
                shared[count] = gt_shared[g]
                count += 1
                highest = max(highest, value)
        for a in range(num_areas):
            low, high = areas[a]
            if area < low or area > high:
                status[s, a] = IGNORED  # unless matched
            for c in range(count):
                g = candidates[c]
                outside[c] = gt_ignore[g] or gt_area[g] < low or gt_area[g] > high
            for t in range(num_thresholds):
                if highest < thresholds[t] or count == 0:
                    continue
                for c in range(count):
                    free[c] = not taken[candidates[c], a, t]
                c, late = _choose(
                    overlaps[:count],
                    free[:count],
                    outside[:count],
                    crowd[:count],
                    shared[:count],
                    thresholds[t],
                    voc,
                    strict,
                )
                if c < 0:
                    continue
                g = candidates[c]
                if late:
                    status[s, a, t] = FALSE
                else:
                    status[s, a, t] = IGNORED if outside[c] else TRUE
                    taken[g, a, t] = True
                if t == 0:
                    overlap[s, a] = overlaps[c]
                    if a == 0:
                        matched[s] = g
    return status, matched, overlap


@njit(cache=True, nogil=True)
def accumulate(
    status: np.ndarray, rank: np.ndarray, limit: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Walk down the scores.

    Args:
        status: (N, A, T) as from :func:`match`.
        rank: (N,) of each detection in its image.
        limit: detections of lower rank count.
        most: length of the result; the largest possible number of true detections.

    Returns:
        false_before (A, T, most) int64: false detections before the k-th true one; position (A, T, most) int64 of
        that; true (A, T) and false (A, T) int64 at the end.
    """
    n, num_areas, num_thresholds = status.shape
    before = np.zeros((num_areas, num_thresholds, most), np.int64)
    position = np.zeros((num_areas, num_thresholds, most), np.int64)
    true = np.zeros((num_areas, num_thresholds), np.int64)
    false = np.zeros((num_areas, num_thresholds), np.int64)
    for s in range(n):
        if rank[s] >= limit:
            continue
        for a in range(num_areas):
            for t in range(num_thresholds):
                value = status[s, a, t]
                if value == FALSE:
                    false[a, t] += 1
                elif value == TRUE:
                    before[a, t, true[a, t]] = false[a, t]
                    position[a, t, true[a, t]] = s
                    true[a, t] += 1
    return before, position, true, false


@njit(cache=True, nogil=True)
def count_true(status: np.ndarray, rank: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Count true detections (M, A, T) of lower rank than each of the limits (M,)."""
    n, num_areas, num_thresholds = status.shape
    result = np.zeros((len(limits), num_areas, num_thresholds), np.int64)
    for s in range(n):
        for a in range(num_areas):
            for t in range(num_thresholds):
                if status[s, a, t] == TRUE:
                    for m in range(len(limits)):
                        if rank[s] < limits[m]:
                            result[m, a, t] += 1
    return result


@njit(cache=True, nogil=True)
def best_overlaps(
    det_image: np.ndarray,
    det_class: np.ndarray,
    det_boxes: np.ndarray,
    gt_starts: np.ndarray,
    gt_class: np.ndarray,
    gt_boxes: np.ndarray,
    plus: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Largest IoU of each detection with an object of its class and with one of another class.

    Args:
        det_image: (N,) image of each detection.
        det_class: (N,).
        det_boxes: (N, 4) XYWH.
        gt_starts: (I + 1,) the objects of image i are ``gt_starts[i]:gt_starts[i + 1]``.
        gt_class: (G,).
        gt_boxes: (G, 4) XYWH.
        plus: added to sides (VOC's integer pixels) or 0.

    Returns:
        IoU (N,) and object (N,) of the own class, then of another class; 0 and -1 where nothing overlaps.
    """
    n = len(det_image)
    same, other = np.zeros(n), np.zeros(n)
    same_at, other_at = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    for s in range(n):
        for g in range(gt_starts[det_image[s]], gt_starts[det_image[s] + 1]):
            value = _overlap(det_boxes[s], gt_boxes[g], False, plus)
            if gt_class[g] == det_class[s]:
                if value > same[s]:
                    same[s], same_at[s] = value, g
            elif value > other[s]:
                other[s], other_at[s] = value, g
    return same, same_at, other, other_at
