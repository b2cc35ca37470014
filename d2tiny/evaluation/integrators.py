"""From a precision-recall curve to one number: four conventions."""

from __future__ import annotations

import numpy as np

__all__ = ["average_precision", "precision_at_recalls"]

RECALLS = np.linspace(0.0, 1.0, 101)
_EPSILON = np.spacing(1)


def _envelope(precision: np.ndarray) -> np.ndarray:
    """Largest precision at this recall or any higher one."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def precision_at_recalls(before: np.ndarray, positives: int, recalls: np.ndarray = RECALLS) -> np.ndarray:
    """Precision envelope at given recalls, as COCO samples it.

    Args:
        before: (P,) false detections before each true one.
        positives: objects to find, at least 1.
        recalls: (R,) rising, in [0, 1].

    Returns:
        (R,) precision in [0, 1]; 0 where the recall is never reached.
    """
    result = np.zeros(len(recalls))
    count = len(before)
    if not count:
        return result
    rank = np.arange(1, count + 1, dtype=np.float64)
    precision = _envelope(rank / (before + rank + _EPSILON))
    places = np.searchsorted(rank / positives, recalls, side="left")
    reached = places < count
    result[reached] = precision[places[reached]]
    return result


def _voc_area(before: np.ndarray, positives: int) -> float:
    rank = np.arange(1, len(before) + 1, dtype=np.float64)
    return float(_envelope(rank / (before + rank)).sum() / positives) if len(before) else 0.0


def _voc07(before: np.ndarray, positives: int) -> float:
    rank = np.arange(1, len(before) + 1, dtype=np.float64)
    if not len(rank):
        return 0.0
    precision = _envelope(rank / (before + rank))
    # 0.1 · i is rounded up at 0.3, 0.6, 0.7, so that a recall of exactly 0.3 misses; every implementation has that.
    places = np.searchsorted(rank / positives, np.arange(0.0, 1.1, 0.1), side="left")
    return float(precision[places[places < len(rank)]].sum() / 11)


def _lerp101(before: np.ndarray, positives: int, false: int) -> float:
    count = len(before)
    rank = np.arange(1, count + 1, dtype=np.float64)
    after = np.append(before[1:], false)  # false detections when the next true one comes
    # two points for each true detection: itself, and the end of the false ones that follow; one for those that lead
    leading = [0.0] if (before[0] if count else false) else []
    points = np.stack((rank / (before + rank), rank / (after + rank)), axis=1).ravel()
    recall = np.concatenate(([0.0], leading, np.repeat(rank / positives, 2), [1.0]))
    precision = _envelope(np.concatenate(([1.0], leading, points, [0.0])))
    values = np.interp(RECALLS, recall, precision)
    return float((values[1:] + values[:-1]).sum() / 2 / (len(RECALLS) - 1))


def average_precision(before: np.ndarray, false: int, positives: int, how: str) -> float:
    """Average precision of one curve.

    Args:
        before: (P,) false detections before each true one, in falling order of score.
        false: all false detections.
        positives: objects to find.
        how: ``coco101``, ``voc_area``, ``voc07`` or ``lerp101`` (see :class:`~d2tiny.evaluation.Protocol`).

    Returns:
        In [0, 1]; NaN without objects.
    """
    if positives == 0:
        return float("nan")
    if how == "coco101":
        return float(precision_at_recalls(before, positives).mean())
    if how == "voc_area":
        return _voc_area(before, positives)
    if how == "voc07":
        return _voc07(before, positives)
    return _lerp101(before, positives, false)
