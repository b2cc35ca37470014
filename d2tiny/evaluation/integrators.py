"""Average precision of a precision-recall curve by four conventions (COCO, VOC, VOC 2007, YOLO)."""

from __future__ import annotations

import numpy as np

__all__ = ["average_precision", "precision_at_recalls"]

RECALLS = np.linspace(0.0, 1.0, 101)
_EPSILON = np.spacing(1)


def _envelope(precision: np.ndarray) -> np.ndarray:
    """Return the largest precision at each recall or any higher one."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def precision_at_recalls(fp_before: np.ndarray, positives: int, recalls: np.ndarray = RECALLS) -> np.ndarray:
    """Sample the precision envelope at given recalls, as COCO does.

    Args:
        fp_before: (P,) number of false positives before each true positive, by descending score.
        positives: number of objects that count for recall, at least 1.
        recalls: (R,) ascending, in [0, 1].

    Returns:
        (R,) precision in [0, 1]; 0 at recalls that are not reached.
    """
    result = np.zeros(len(recalls))
    count = len(fp_before)
    if not count:
        return result
    rank = np.arange(1, count + 1, dtype=np.float64)
    precision = _envelope(rank / (fp_before + rank + _EPSILON))
    index = np.searchsorted(rank / positives, recalls, side="left")
    reached = index < count
    result[reached] = precision[index[reached]]
    return result


def _voc_area(fp_before: np.ndarray, positives: int) -> float:
    rank = np.arange(1, len(fp_before) + 1, dtype=np.float64)
    return float(_envelope(rank / (fp_before + rank)).sum() / positives) if len(fp_before) else 0.0


def _voc07(fp_before: np.ndarray, positives: int) -> float:
    rank = np.arange(1, len(fp_before) + 1, dtype=np.float64)
    if not len(rank):
        return 0.0
    precision = _envelope(rank / (fp_before + rank))
    # 0.1 · i rounds up at 0.3, 0.6 and 0.7, so a recall of exactly 0.3 does not reach 0.3; so in all implementations.
    index = np.searchsorted(rank / positives, np.arange(0.0, 1.1, 0.1), side="left")
    return float(precision[index[index < len(rank)]].sum() / 11)


def _lerp101(fp_before: np.ndarray, positives: int, num_fp: int) -> float:
    count = len(fp_before)
    rank = np.arange(1, count + 1, dtype=np.float64)
    after = np.append(fp_before[1:], num_fp)  # false positives before the next true positive
    # Two points for each true positive: at it, and after the false positives that follow; one more for leading ones.
    leading = [0.0] if (fp_before[0] if count else num_fp) else []
    points = np.stack((rank / (fp_before + rank), rank / (after + rank)), axis=1).ravel()
    recall = np.concatenate(([0.0], leading, np.repeat(rank / positives, 2), [1.0]))
    precision = _envelope(np.concatenate(([1.0], leading, points, [0.0])))
    values = np.interp(RECALLS, recall, precision)
    return float((values[1:] + values[:-1]).sum() / 2 / (len(RECALLS) - 1))


def average_precision(fp_before: np.ndarray, num_fp: int, positives: int, integrator: str) -> float:
    """Compute the average precision of one precision-recall curve.

    Args:
        fp_before: (P,) number of false positives before each true positive, by descending score.
        num_fp: number of all false positives.
        positives: number of objects that count for recall.
        integrator: ``coco101``, ``voc_area``, ``voc07`` or ``lerp101`` (see :class:`~d2tiny.evaluation.Protocol`).

    Returns:
        Average precision in [0, 1]; NaN without objects.
    """
    if positives == 0:
        return float("nan")
    if integrator == "coco101":
        return float(precision_at_recalls(fp_before, positives).mean())
    if integrator == "voc_area":
        return _voc_area(fp_before, positives)
    if integrator == "voc07":
        return _voc07(fp_before, positives)
    return _lerp101(fp_before, positives, num_fp)
