"""Error analysis in the manner of TIDE (Bolya et al., ECCV 2020): types of errors and the AP that each costs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from d2tiny.data.coco.arrays import GroundTruth
from d2tiny.evaluation import kernels
from d2tiny.evaluation.detections import Detections
from d2tiny.evaluation.engine import match_classes, prepare, score_order
from d2tiny.evaluation.integrators import average_precision
from d2tiny.evaluation.protocols import Protocol

__all__ = ["ERRORS", "ErrorAnalysis", "analyse_errors", "delta_ap"]

# Kinds of detections. TIDE tests for a localisation error before a class error; here the larger overlap decides.
TRUE, IGNORED, CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(7)
ERRORS = ("missed", "localisation", "class", "both", "duplicate", "background")
_KIND = {"localisation": LOCALISATION, "class": CLASS, "both": BOTH, "duplicate": DUPLICATE, "background": BACKGROUND}
_MATCH_IOU, _BACKGROUND_IOU = 0.5, 0.1


@dataclass(frozen=True)
class ErrorAnalysis:
    """Classification of every detection and object. N detections by descending score, G objects.

    Attributes:
        protocol: the protocol, applied at an IoU threshold of 0.5 only.
        truth: the evaluated objects; ignored regions have become ignored objects.
        detections: the evaluated detections.
        kind: (N,) kind of each detection: TRUE, IGNORED, or a type of error.
        target: (N,) index of the object that a detection matches, mislocates, misclassifies or duplicates; -1 for
            background.
        objects: (G,) bool, objects that count for recall.
        hit: (G,) bool, objects matched by a detection of their class with IoU ≥ 0.5.
        missed: (G,) bool, objects that count for recall and are neither matched nor the target of a localisation or
            class error.
    """

    protocol: Protocol
    truth: GroundTruth
    detections: Detections
    kind: np.ndarray
    target: np.ndarray
    objects: np.ndarray
    hit: np.ndarray
    missed: np.ndarray

    def counts(self) -> dict[str, int]:
        """Return the number of errors of each type at any score."""
        result = {name: int((self.kind == kind).sum()) for name, kind in _KIND.items()}
        return {"missed": int(self.missed.sum()), **result}


def analyse_errors(truth: GroundTruth, detections: Detections, protocol: Protocol) -> ErrorAnalysis:
    """Match at IoU 0.5 and classify every error.

    The type of a false positive is the first that applies: *duplicate* (IoU ≥ 0.5 with an object of its class, which
    another detection matches), *class* (IoU ≥ 0.5 with an object of another class), *localisation* (IoU in [0.1, 0.5)
    with an object of its class), *both* (IoU in [0.1, 0.5) with an object of another class), *background*.

    Args:
        truth: the ground truth.
        detections: the detections.
        protocol: its regions, limits, base area and matching rule are used.
    """
    truth, detections = prepare(truth, detections, protocol)
    low, high = protocol.base_area
    objects = ~truth.ignore & (truth.area >= low) & (truth.area <= high)
    order = score_order(detections, len(truth.image_ids))
    kind = np.full(len(detections), IGNORED, dtype=np.int8)
    target = np.full(len(detections), -1, dtype=np.int64)
    hit = np.zeros(len(truth), dtype=bool)
    for matches in match_classes(truth, detections, replace(protocol, areas={}), np.array([_MATCH_IOU])):
        counts = (matches.rank < protocol.ap_limit) | protocol.max_dets_per_image
        true, false = (counts & (matches.status[:, 0, 0] == value) for value in (kernels.TRUE, kernels.FALSE))
        kind[matches.det_idxs[true]] = TRUE
        kind[matches.det_idxs[false]] = BACKGROUND
        target[matches.det_idxs[true]] = matches.gt_idxs[matches.matched[true]]
        hit[matches.gt_idxs[matches.matched[true]]] = True
    false = np.flatnonzero(kind == BACKGROUND)
    plus = 1.0 if protocol.overlap_plus_one else 0.0
    kind[false], target[false] = _false_kinds(truth, np.flatnonzero(objects), detections.select(false), plus)
    is_target = np.zeros(len(truth), dtype=bool)
    is_target[target[(kind == LOCALISATION) | (kind == CLASS)]] = True
    missed = objects & ~hit & ~is_target
    return ErrorAnalysis(protocol, truth, detections.select(order), kind[order], target[order], objects, hit, missed)


def _false_kinds(
    truth: GroundTruth, objects: np.ndarray, false: Detections, plus: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return kind and target of false positives."""
    by_image, starts = kernels.group(truth.image[objects], len(truth.image_ids))
    objects = objects[by_image]
    same, same_gt, other, other_gt = kernels.best_overlaps(
        false.image, false.category, false.boxes, starts, truth.category[objects], truth.boxes[objects], plus
    )
    # Later assignments override earlier ones.
    kind = np.full(len(false), BACKGROUND, dtype=np.int8)
    target = np.full(len(false), -1, dtype=np.int64)
    for applies, error, gt in (
        (other >= _BACKGROUND_IOU, BOTH, other_gt),
        (same >= _BACKGROUND_IOU, LOCALISATION, same_gt),
        (other >= _MATCH_IOU, CLASS, other_gt),
        (same >= _MATCH_IOU, DUPLICATE, same_gt),
    ):
        kind[applies] = error
        target[applies] = objects[gt[applies]]
    return kind, target


def delta_ap(
    analysis: ErrorAnalysis, *, area: tuple[float, float] | None = None, images: np.ndarray | None = None
) -> dict[str, float]:
    """Compute AP50 and how much it would rise if one type of error were fixed (ΔAP of TIDE), for each type.

    Fixing *missed* removes missed objects. Fixing *localisation* or *class* turns the best such detection of each
    unmatched object into a true positive and removes the others. Fixing another type removes its detections.

    Args:
        analysis: analysis of the dataset.
        area: consider only objects whose area lies in (low, high] px² (a low of 0 is included), detections that target
            them, and background detections of this size; None considers all.
        images: (I,) bool, consider only these images; None considers all.

    Returns:
        ``AP50`` and ΔAP for each of :data:`ERRORS` in percentage points, NaN without objects; and ``objects``, the
        number of objects considered.
    """
    truth, detections, protocol = analysis.truth, analysis.detections, analysis.protocol
    objects = analysis.objects.copy()
    area_of = detections.boxes[:, 2] * detections.boxes[:, 3]
    has_target = analysis.target >= 0
    area_of[has_target] = truth.area[analysis.target[has_target]]
    use = analysis.kind != IGNORED
    if area is not None:
        low, high = area if area[0] > 0 else (-1.0, area[1])
        objects &= (truth.area > low) & (truth.area <= high)
        use &= (area_of > low) & (area_of <= high)
    if images is not None:
        objects &= images[truth.image]
        use &= images[detections.image]
    kind, target = analysis.kind[use], analysis.target[use]
    category = detections.category[use].astype(np.int64)
    mean_ap = _MeanAP(truth, objects | (truth.ignore & protocol.count_ignored), protocol)
    base = mean_ap(category, kind == TRUE)
    result = {"objects": float(objects.sum()), "AP50": base}
    missed = np.bincount(truth.category[objects & analysis.missed], minlength=len(truth.classes))
    result["missed"] = mean_ap(category, kind == TRUE, missed) - base
    for name, error in _KIND.items():
        has_error = kind == error
        keep, correct, label = ~has_error, kind == TRUE, category.copy()
        if error in (LOCALISATION, CLASS):
            fixed = _best_of_unmatched(target, has_error, analysis.hit)
            keep[fixed] = correct[fixed] = True
            label[fixed] = truth.category[target[fixed]]
        result[name] = mean_ap(label[keep], correct[keep]) - base
    return {name: result[name] for name in ("objects", "AP50", *ERRORS)}


def _best_of_unmatched(target: np.ndarray, has_error: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Return the index of the best detection with this error for each object that no detection matches."""
    index = np.flatnonzero(has_error)
    index = index[~hit[target[index]]]
    _, first = np.unique(target[index], return_index=True)
    return index[first]


class _MeanAP:
    """Mean AP over classes with the protocol's weights and integrator, for detections by descending score."""

    def __init__(self, truth: GroundTruth, objects: np.ndarray, protocol: Protocol) -> None:
        self.positives = np.bincount(truth.category[objects], minlength=len(truth.classes))
        self.weights: np.ndarray = np.ones(len(truth.classes))
        if protocol.class_mean == "images":
            pairs = np.unique(np.stack((truth.category, truth.image), axis=1), axis=0)
            self.weights = np.bincount(pairs[:, 0], minlength=len(truth.classes)).astype(float)
        self.integrator = protocol.integrators[0]

    def __call__(self, category: np.ndarray, true: np.ndarray, removed: np.ndarray | None = None) -> float:
        """Return the mean AP in percent, with ``removed`` (K,) objects of each class left out."""
        order, starts = kernels.group(category, len(self.positives))
        values, weights = [], []
        for k in np.flatnonzero(self.positives):
            is_tp = true[order[starts[k] : starts[k + 1]]]
            tp_index = np.flatnonzero(is_tp)
            num_fp = len(is_tp) - len(tp_index)
            positives = int(self.positives[k] - (0 if removed is None else removed[k]))
            if positives:
                fp_before = tp_index - np.arange(len(tp_index))
                values.append(average_precision(fp_before, num_fp, positives, self.integrator))
            else:  # all objects were missed: without them the class is perfect unless it has false positives
                values.append(0.0 if num_fp else 1.0)
            weights.append(self.weights[k])
        return float(np.average(values, weights=weights) * 100) if values else float("nan")
