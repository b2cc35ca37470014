"""Optimal localisation-recall-precision error (oLRP; Oksuz et al., ECCV 2018, as AI-TOD's toolkit computes it)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["OptimalLRP", "optimal_lrp"]


class OptimalLRP(NamedTuple):
    """Optimal LRP of one class and its components at the optimal score threshold.

    All are errors in [0, 1], lower is better; NaN where undefined.

    Attributes:
        total: LRP at the optimal score threshold; 1 without true positives, NaN without objects.
        localisation: mean ``1 - IoU`` of the true positives, not divided by ``1 - τ``.
        false_positive: fraction of the detections that are false positives.
        false_negative: fraction of the objects that are missed.
        threshold: the optimal score threshold.
    """

    total: float
    localisation: float
    false_positive: float
    false_negative: float
    threshold: float


def optimal_lrp(
    fp_before: np.ndarray, ious: np.ndarray, scores: np.ndarray, positives: int, tau: float = 0.5
) -> OptimalLRP:
    """Compute the optimal LRP of one class.

    ``LRP(s) = (Σ_TP (1 - IoU) / (1 - τ) + FP + FN) / (TP + FP + FN)`` over the detections with a score of at least s;
    oLRP is its minimum over s. LRP increases between two true positives, so the minimum is at a true positive. (The
    reference implementation names the first false positive instead if every true positive has an IoU of exactly τ;
    oLRP is 1 in both.)

    Args:
        fp_before: (P,) number of false positives before each true positive, by descending score.
        ious: (P,) IoU of the true positives with their objects.
        scores: (P,) scores of the true positives.
        positives: number of objects.
        tau: IoU threshold of a true positive, below 1.
    """
    nan = float("nan")
    if positives == 0:
        return OptimalLRP(nan, nan, nan, nan, nan)
    if not len(fp_before):
        return OptimalLRP(1.0, nan, nan, 1.0, nan)
    num_tp = np.arange(1, len(fp_before) + 1, dtype=np.float64)
    loss = num_tp - np.cumsum(ious)  # in the reference implementation's order of operations
    missed = positives - num_tp
    error = (loss / (1 - tau) + fp_before + missed) / (num_tp + fp_before + missed)
    best = int(np.argmin(error))
    return OptimalLRP(
        float(error[best]),
        float(loss[best] / num_tp[best]),
        float(fp_before[best] / (num_tp[best] + fp_before[best])),
        float(missed[best] / positives),
        float(scores[best]),
    )
