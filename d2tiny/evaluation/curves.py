"""Curves of the error report: recall by size, precision-recall, score calibration."""

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
    """Edges in px of size bins: 2 px wide up to 32 px, then growing by a quarter."""
    edges = list(np.arange(0.0, 33.0, 2.0))
    while edges[-1] < largest:
        edges.append(edges[-1] * 1.25)
    return np.array(edges)


def recall_by_size(
    truth: GroundTruth, found: Detections, protocol: Protocol, edges: np.ndarray, thresholds: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the objects of each size that are found at any score.

    Args:
        truth: objects.
        found: detections.
        protocol: its regions, last limit and matching hold; objects of every size count.
        edges: (S + 1,) px, of the square root of the area.
        thresholds: IoU.

    Returns:
        recall (len(thresholds), S) in [0, 1], NaN where there is no object; and objects (S,).
    """
    truth, found = prepare(truth, found, protocol)
    plain = replace(protocol, areas={}, base_area=(0.0, INFINITE))
    sizes = np.sqrt(truth.area)
    counts = np.histogram(sizes[~truth.ignore], edges)[0]
    rows = []
    for threshold in thresholds:
        hit = np.zeros(len(truth), dtype=bool)
        for matches in match_classes(truth, found, plain, np.array([threshold])):
            hit[matches.objects[matches.matched[matches.matched >= 0]]] = True
        with np.errstate(invalid="ignore"):
            rows.append(np.histogram(sizes[hit & ~truth.ignore], edges)[0] / counts)
    return np.stack(rows), counts


def precision_recall(analysis: ErrorAnalysis) -> np.ndarray:
    """Precision envelope (K, 101) of each class at IoU 0.5 and the recalls 0, 0.01, …, 1; NaN without objects."""
    truth = analysis.truth
    result = np.full((len(truth.classes), len(RECALLS)), np.nan)
    for k in range(len(truth.classes)):
        positives = int(((truth.category == k) & analysis.objects).sum())
        if positives:
            kinds = analysis.kind[(analysis.found.category == k) & (analysis.kind != IGNORED)]
            places = np.flatnonzero(kinds == TRUE)
            result[k] = precision_at_recalls(places - np.arange(len(places)), positives)
    return result


def best_thresholds(analysis: ErrorAnalysis) -> np.ndarray:
    """Score (K,) at which the F1 of each class at IoU 0.5 is highest; 0.5 where nothing is right."""
    truth = analysis.truth
    result = np.full(len(truth.classes), 0.5)
    for k in range(len(truth.classes)):
        here = (analysis.found.category == k) & (analysis.kind != IGNORED)
        right = np.cumsum(analysis.kind[here] == TRUE)
        if len(right) and right[-1]:
            positives = ((truth.category == k) & analysis.objects).sum()
            f1 = 2 * right / (np.arange(1, len(right) + 1) + positives)
            scores = analysis.found.scores[here]
            f1[:-1][scores[1:] == scores[:-1]] = -1  # a threshold takes all of equal scores, or none
            result[k] = scores[np.argmax(f1)]
    return result


@dataclass(frozen=True)
class Calibration:
    """Scores against the share that is right, in equal steps of the score; NaN in empty bins.

    Attributes:
        score: mean of each bin.
        precision: share of true detections of each bin.
        count: detections of each bin.
        error: mean absolute difference of the two, weighted by count (expected calibration error); NaN where a score
            is no probability.
    """

    score: np.ndarray
    precision: np.ndarray
    count: np.ndarray
    error: float


def calibration(analysis: ErrorAnalysis, bins: int = 20) -> Calibration:
    """Compare scores with precision at IoU 0.5; ignored detections do not count."""
    use = analysis.kind != IGNORED
    scores, right = analysis.found.scores[use], analysis.kind[use] == TRUE
    place = np.minimum((scores.clip(0, 1) * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        score = np.bincount(place, scores, bins) / count
        precision = np.bincount(place, right, bins) / count
    known = count > 0
    gaps = np.abs(score - precision)[known] * count[known]
    probable = ((scores >= 0) & (scores <= 1)).all()
    return Calibration(score, precision, count, float(gaps.sum() / max(1, count.sum())) if probable else float("nan"))
