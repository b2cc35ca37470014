"""Loops of the evaluation compiled by numba; ``tests/reference/evaluation.py`` has a slow reference implementation.

The functions work on the detections of one class by descending score, so that memory is bounded by the largest class.
Most detections overlap no object: one pass over the overlaps decides them, and only the others are matched at every
threshold and area.
"""

from __future__ import annotations

import numpy as np

from d2tiny.utils.compiled import njit

__all__ = ["FALSE", "IGNORED", "TRUE", "accumulate", "best_overlaps", "count_tp", "group", "match", "ranks"]

FALSE = 0
TRUE = 1
IGNORED = 2
_BEYOND_LIMIT = 3  # beyond the last limit of max_dets: counts as neither true nor false


@njit(cache=True)
def group(keys: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort integer keys with a stable counting sort.

    Args:
        keys: (N,) integers in [0, num_groups).
        num_groups: num_groups of groups.

    Returns:
        order (N,) int64 that sorts the keys, and starts (num_groups + 1,) int64 of the groups within it.
    """
    starts = np.zeros(num_groups + 1, np.int64)
    for key in keys:
        starts[key + 1] += 1
    for i in range(num_groups):
        starts[i + 1] += starts[i]
    fill = starts[:-1].copy()
    order = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        key = keys[i]
        order[fill[key]] = i
        fill[key] += 1
    return order, starts


@njit(cache=True)
def ranks(keys: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the (N,) int32 rank of each entry within its group, in input order, from 0."""
    count = np.zeros(num_groups, np.int32)
    result = np.empty(len(keys), np.int32)
    for i in range(len(keys)):
        result[i] = count[keys[i]]
        count[keys[i]] += 1
    return result


@njit(cache=True)
def _overlap(d: np.ndarray, g: np.ndarray, ignored: bool, plus: float) -> float:
    """Return the IoU of two XYWH boxes in COCO's order of operations; for ignored objects, intersection by own area."""
    w = min(d[0] + d[2], g[0] + g[2]) - max(d[0], g[0]) + plus
    if w <= 0:
        return 0.0
    h = min(d[1] + d[3], g[1] + g[3]) - max(d[1], g[1]) + plus
    if h <= 0:
        return 0.0
    inter = w * h
    own = (d[2] + plus) * (d[3] + plus)
    union = own if ignored else own + (g[2] + plus) * (g[3] + plus) - inter
    return inter / union if union > 0 else 0.0  # the areas may underflow to 0


@njit(cache=True)
def _reaches(overlap: float, threshold: float, strict: bool) -> bool:
    return overlap > threshold if strict else overlap >= threshold


@njit(cache=True)
def _choose_object(
    overlaps: np.ndarray,
    free: np.ndarray,
    outside: np.ndarray,
    crowd: np.ndarray,
    shared: np.ndarray,
    threshold: float,
    voc: bool,
    strict: bool,
) -> tuple[int, bool]:
    """Choose the object that a detection matches.

    Args:
        overlaps: (C,) overlaps of the candidates, in file order.
        free: (C,) whether a candidate has not been matched yet.
        outside: (C,) whether a candidate is ignored in this area range.
        crowd: (C,) whether a candidate may be matched several times.
        shared: (C,) whether a candidate is an ignored region.
        threshold: smallest overlap of a match.
        voc: consider only the candidate of largest overlap, matched or not.
        strict: require an overlap above the threshold, not equal to it.

    Returns:
        Index of the candidate, or -1; and whether it is already matched, which makes the detection a false positive.
    """
    best, chosen = threshold, -1
    if voc:
        for regions in (False, True):  # regions only if no object matches
            if chosen >= 0:
                break
            for c in range(len(overlaps)):
                # among equal overlaps, the first
                better = _reaches(overlaps[c], threshold, strict) if chosen < 0 else overlaps[c] > best
                if shared[c] == regions and better:
                    best, chosen = overlaps[c], c
        return chosen, chosen >= 0 and not free[chosen] and not outside[chosen]
    for ignored in (False, True):  # ignored objects only if no other object matches
        if chosen >= 0:
            break
        for c in range(len(overlaps)):
            if outside[c] != ignored or not (free[c] or crowd[c]):
                continue
            # among equal overlaps the last, as in COCO
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
        det_image: (N,) image index of each detection, by descending score.
        det_boxes: (N, 4) XYWH.
        det_rank: (N,) rank of each detection among those of its image and class.
        gt_starts: (I + 1,) the objects of image i are ``gt_starts[i]:gt_starts[i + 1]``.
        gt_boxes: (G, 4) XYWH.
        gt_area: (G,) px².
        gt_ignore: (G,) bool.
        gt_shared: (G,) bool, ignored regions; their overlap is intersection by the detection's area under any rule.
        areas: (A, 2) area ranges in px², closed at both ends.
        thresholds: (T,) IoU thresholds.
        limit: only detections of lower rank count.
        voc: use VOC's matching instead of COCO's.
        plus: 1 to count sides as ``x2 - x1 + 1`` (VOC's integer pixels), else 0.
        strict: require an overlap above the threshold, not equal to it.

    Returns:
        status (N, A, T) uint8: FALSE, TRUE, IGNORED, or 3 beyond the limit;
        matched (N,) int64: object matched in the first area range at the first threshold, or -1;
        overlap (N, A) float64: IoU with the object matched at the first threshold, or 0.
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
            status[s] = _BEYOND_LIMIT
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
                status[s, a] = IGNORED  # unless it is matched below
            for c in range(count):
                g = candidates[c]
                outside[c] = gt_ignore[g] or gt_area[g] < low or gt_area[g] > high
            for t in range(num_thresholds):
                if highest < thresholds[t] or count == 0:
                    continue
                for c in range(count):
                    free[c] = not taken[candidates[c], a, t]
                c, is_taken = _choose_object(
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
                if is_taken:
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
    status: np.ndarray, rank: np.ndarray, limit: int, max_tp: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Count true and false positives by descending score.

    Args:
        status: (N, A, T) from :func:`match`.
        rank: (N,) rank of each detection in its image.
        limit: only detections of lower rank count.
        max_tp: largest possible num_groups of true positives, the length of the results.

    Returns:
        fp_before (A, T, max_tp) int64: false positives before the k-th true positive;
        position (A, T, max_tp) int64: index of the k-th true positive;
        num_tp and num_fp (A, T) int64: numbers of true and false positives.
    """
    n, num_areas, num_thresholds = status.shape
    fp_before = np.zeros((num_areas, num_thresholds, max_tp), np.int64)
    position = np.zeros((num_areas, num_thresholds, max_tp), np.int64)
    num_tp = np.zeros((num_areas, num_thresholds), np.int64)
    num_fp = np.zeros((num_areas, num_thresholds), np.int64)
    for s in range(n):
        if rank[s] >= limit:
            continue
        for a in range(num_areas):
            for t in range(num_thresholds):
                value = status[s, a, t]
                if value == FALSE:
                    num_fp[a, t] += 1
                elif value == TRUE:
                    fp_before[a, t, num_tp[a, t]] = num_fp[a, t]
                    position[a, t, num_tp[a, t]] = s
                    num_tp[a, t] += 1
    return fp_before, position, num_tp, num_fp


@njit(cache=True, nogil=True)
def count_tp(status: np.ndarray, rank: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return the (M, A, T) numbers of true positives whose rank is lower than each of the (M,) limits."""
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
    """Find for each detection the largest IoU with an object of its class and with one of another class.

    Args:
        det_image: (N,) image index of each detection.
        det_class: (N,) class index.
        det_boxes: (N, 4) XYWH.
        gt_starts: (I + 1,) the objects of image i are ``gt_starts[i]:gt_starts[i + 1]``.
        gt_class: (G,) class index.
        gt_boxes: (G, 4) XYWH.
        plus: 1 to count sides as ``x2 - x1 + 1`` (VOC's integer pixels), else 0.

    Returns:
        IoU (N,) and object index (N,) for the same class, then for other classes; 0 and -1 without any overlap.
    """
    n = len(det_image)
    same, other = np.zeros(n), np.zeros(n)
    same_gt, other_gt = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    for s in range(n):
        for g in range(gt_starts[det_image[s]], gt_starts[det_image[s] + 1]):
            value = _overlap(det_boxes[s], gt_boxes[g], False, plus)
            if gt_class[g] == det_class[s]:
                if value > same[s]:
                    same[s], same_gt[s] = value, g
            elif value > other[s]:
                other[s], other_gt[s] = value, g
    return same, same_gt, other, other_gt
