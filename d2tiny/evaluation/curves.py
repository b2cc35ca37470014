"""Curves of the error report: recall by size, precision and recall, score calibration."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from d2tiny.data.coco.arrays import GroundTruth
from d2tiny.evaluation.detections import Detections
from d2tiny.evaluation.engine import match_classes, prepare
from d2tiny.evaluation.errors import IGNORED, TRUE, ErrorAnalysis
from d2tiny.evaluation.integrators import RECALLS, precision_at_recalls
from d2tiny.evaluation.protocols import INFINITE, Protocol

__all__ = ["Calibration", "best_thresholds", "calibration", "precision_recall", "recall_by_size", "size_edges"]


def size_edges(largest: float) -> np.ndarray:
    """Return the edges of size bins in px: every 2 px up to 32 px, then each 1.25 times the one before.

    Args:
        largest: largest size in px that the bins must cover.
    """
    edges = list(np.arange(0.0, 33.0, 2.0))
    while edges[-1] < largest:
        edges.append(edges[-1] * 1.25)
    return np.array(edges)


def recall_by_size(
    truth: GroundTruth, detections: Detections, protocol: Protocol, edges: np.ndarray, thresholds: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the recall of objects by size, counting detections of any score.

    Args:
        truth: the ground truth.
        detections: the detections.
        protocol: its regions, last limit and matching rule are used, its areas are not.
        edges: (S + 1,) edges of the size bins in px; the size is the square root of the area.
        thresholds: IoU thresholds.

    Returns:
        recall (len(thresholds), S) in [0, 1], NaN in bins without objects; number of objects (S,).
    """
    truth, detections = prepare(truth, detections, protocol)
    all_sizes = replace(protocol, areas={}, base_area=(0.0, INFINITE))
    sizes = np.sqrt(truth.area)
    counts = np.histogram(sizes[~truth.ignore], edges)[0]
    rows = []
    for threshold in thresholds:
        hit = np.zeros(len(truth), dtype=bool)
        for matches in match_classes(truth, detections, all_sizes, np.array([threshold])):
            hit[matches.gt_idxs[matches.matched[matches.matched >= 0]]] = True
        with np.errstate(invalid="ignore"):
            rows.append(np.histogram(sizes[hit & ~truth.ignore], edges)[0] / counts)
    return np.stack(rows), counts


def precision_recall(analysis: ErrorAnalysis) -> np.ndarray:
    """Return the precision (K, 101) of each class at IoU 0.5 and recalls 0, 0.01, …, 1; NaN without objects."""
    truth = analysis.truth
    result = np.full((len(truth.classes), len(RECALLS)), np.nan)
    for k in range(len(truth.classes)):
        positives = int(((truth.category == k) & analysis.objects).sum())
        if positives:
            kinds = analysis.kind[(analysis.detections.category == k) & (analysis.kind != IGNORED)]
            tp_index = np.flatnonzero(kinds == TRUE)
            result[k] = precision_at_recalls(tp_index - np.arange(len(tp_index)), positives)
    return result


def best_thresholds(analysis: ErrorAnalysis) -> np.ndarray:
    """Return the score (K,) of the highest F1 of each class at IoU 0.5; 0.5 for a class without true positives."""
    truth = analysis.truth
    result = np.full(len(truth.classes), 0.5)
    for k in range(len(truth.classes)):
        counted = (analysis.detections.category == k) & (analysis.kind != IGNORED)
        tp = np.cumsum(analysis.kind[counted] == TRUE)
        if len(tp) and tp[-1]:
            positives = ((truth.category == k) & analysis.objects).sum()
            f1 = 2 * tp / (np.arange(1, len(tp) + 1) + positives)
            scores = analysis.detections.scores[counted]
            f1[:-1][scores[1:] == scores[:-1]] = -1  # a threshold cannot separate equal scores
            result[k] = scores[np.argmax(f1)]
    return result


@dataclass(frozen=True)
class Calibration:
    """Reliability diagram: precision against score in bins of equal width; NaN in empty bins.

    Attributes:
        score: mean score of each bin.
        precision: fraction of true positives in each bin.
        count: number of detections in each bin.
        error: expected calibration error: mean absolute difference of score and precision, weighted by count; NaN if
            a score lies outside [0, 1].
    """

    score: np.ndarray
    precision: np.ndarray
    count: np.ndarray
    error: float


def calibration(analysis: ErrorAnalysis, bins: int = 20) -> Calibration:
    """Compare scores with precision at IoU 0.5 in ``bins`` equal bins of [0, 1]; ignored detections do not count."""
    use = analysis.kind != IGNORED
    scores, correct = analysis.detections.scores[use], analysis.kind[use] == TRUE
    bin_index = np.minimum((scores.clip(0, 1) * bins).astype(np.int64), bins - 1)
    count = np.bincount(bin_index, minlength=bins)
    with np.errstate(invalid="ignore"):
        score = np.bincount(bin_index, scores, bins) / count
        precision = np.bincount(bin_index, correct, bins) / count
    filled = count > 0
    gaps = np.abs(score - precision)[filled] * count[filled]
    are_probabilities = ((scores >= 0) & (scores <= 1)).all()
    return Calibration(
        score, precision, count, float(gaps.sum() / max(1, count.sum())) if are_probabilities else float("nan")
    )
