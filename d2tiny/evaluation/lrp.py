"""Optimal localisation-recall-precision error (oLRP; Oksuz et al., ECCV 2018, as AI-TOD's toolkit computes it)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["OptimalLRP", "optimal_lrp"]


class OptimalLRP(NamedTuple):
    """Errors in [0, 1], lower is better; NaN where undefined.

    Attributes:
        total: LRP at the best score threshold; 1 if nothing is found, NaN without objects.
        localisation: mean ``1 - IoU`` of the true detections there (not divided by ``1 - τ``).
        false_positive: share of the detections that are false.
        false_negative: share of the objects that are missed.
        threshold: the score at which it is reached.
    """

    total: float
    localisation: float
    false_positive: float
    false_negative: float
    threshold: float


def optimal_lrp(
    before: np.ndarray, ious: np.ndarray, scores: np.ndarray, positives: int, tau: float = 0.5
) -> OptimalLRP:
    """Compute oLRP of one class.

    ``LRP(s) = (Σ_TP (1 - IoU) / (1 - τ) + FP + FN) / (TP + FP + FN)`` over the detections with a score of at least s;
    oLRP is its minimum over s. Between two true detections LRP only grows, so the minimum lies at a true one (the
    reference names the first false detection instead where every true one has an IoU of exactly τ: oLRP is 1 in both).

    Args:
        before: (P,) false detections before each true one, in falling order of score.
        ious: (P,) of the true detections with their objects.
        scores: (P,) of the true detections.
        positives: objects to find.
        tau: IoU from which a detection is true, below 1.
    """
    nan = float("nan")
    if positives == 0:
        return OptimalLRP(nan, nan, nan, nan, nan)
    if not len(before):
        return OptimalLRP(1.0, nan, nan, 1.0, nan)
    true = np.arange(1, len(before) + 1, dtype=np.float64)
    loss = true - np.cumsum(ious)  # the reference's order of operations
    missed = positives - true
    error = (loss / (1 - tau) + before + missed) / (true + before + missed)
    best = int(np.argmin(error))
    return OptimalLRP(
        float(error[best]),
        float(loss[best] / true[best]),
        float(before[best] / (true[best] + before[best])),
        float(missed[best] / positives),
        float(scores[best]),
    )
