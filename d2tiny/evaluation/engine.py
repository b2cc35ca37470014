"""Evaluation engine: average precision, recall and oLRP of arrays under any protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from d2tiny.data.coco.arrays import GroundTruth
from d2tiny.evaluation import kernels
from d2tiny.evaluation.detections import Detections
from d2tiny.evaluation.integrators import average_precision
from d2tiny.evaluation.lrp import OptimalLRP, optimal_lrp
from d2tiny.evaluation.protocols import Integrator, Protocol
from d2tiny.evaluation.regions import outside_regions

__all__ = ["ClassMatches", "EvaluationResult", "evaluate_arrays", "match_classes", "prepare", "score_order"]

_UNLIMITED = np.iinfo(np.int32).max


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class matched to its objects.

    Shapes: N detections by descending score, G objects, A area ranges (first the base area), T thresholds.

    Attributes:
        index: index of the class.
        det_idxs: (N,) indices into the evaluated detections.
        rank: (N,) rank of each detection among those of its image and class, from 0.
        gt_idxs: (G,) indices into the evaluated ground truth.
        status: (N, A, T) uint8: true positive, false positive or ignored, see :mod:`d2tiny.evaluation.kernels`.
        matched: (N,) index into ``gt_idxs`` of the object matched in the base area at the first threshold, or -1.
        overlap: (N, A) IoU with the object matched at the first threshold.
        positives: (A,) number of objects that count for recall.
    """

    index: int
    det_idxs: np.ndarray
    rank: np.ndarray
    gt_idxs: np.ndarray
    status: np.ndarray
    matched: np.ndarray
    overlap: np.ndarray
    positives: np.ndarray


@dataclass(frozen=True)
class EvaluationResult:
    """Result of an evaluation; values are NaN where there are no objects.

    Shapes: T thresholds, K classes, A area ranges (first the base area), M limits of ``max_dets``.

    Attributes:
        protocol: the evaluation protocol.
        classes: names of the K classes.
        thresholds: (T,) ``iou_thresholds`` of the protocol, then its ``extra_ious``.
        ap: average precision (T, K, A) in [0, 1] for each integrator.
        recall: (T, K, A, M) recall in [0, 1].
        positives: (K, A) number of objects that count for recall.
        weights: (K,) weights of the classes in means over classes.
        lrp: :class:`OptimalLRP` of each class; None if the protocol does not report it.
    """

    protocol: Protocol
    classes: tuple[str, ...]
    thresholds: np.ndarray
    ap: dict[Integrator, np.ndarray]
    recall: np.ndarray
    positives: np.ndarray
    weights: np.ndarray
    lrp: list[OptimalLRP] | None

    def metrics(self) -> dict[str, float]:
        """Return all metrics by name, in percent; NaN where there are no objects.

        The names are ``AP``, ``AP50``, ``AP75`` and the same for ``extra_ious``, ``AP{area}``, ``AP50_{integrator}``,
        ``AR@{max_dets}``, ``AR{area}``, ``oLRP*`` (errors: lower is better), ``AP-{class}``, ``AP50-{class}`` where
        the protocol has other thresholds too, and ``threshold-{class}``, the score of the lowest LRP in [0, 1], which
        is not a percentage.
        """
        protocol = self.protocol
        labels = ("all", *protocol.areas)
        used = len(protocol.iou_thresholds)
        ap = self.ap[protocol.integrators[0]]
        result = {"AP": self._mean(ap[:used, :, 0])}
        reported = sorted({0.5, 0.75} & {round(t, 6) for t in protocol.iou_thresholds} | set(protocol.extra_ious))
        for value in reported:
            at = np.isclose(self.thresholds, value)
            result[f"AP{round(value * 100, 6):g}"] = self._mean(ap[at][:1, :, 0])
        result |= {f"AP{label}": self._mean(ap[:used, :, i]) for i, label in enumerate(labels) if i}
        for other in protocol.integrators[1:]:
            result[f"AP50_{other}"] = self._mean(self.ap[other][np.isclose(self.thresholds, 0.5)][:1, :, 0])
        if len(protocol.max_dets) > 1:
            result |= {f"AR@{m}": self._mean(self.recall[:used, :, 0, i]) for i, m in enumerate(protocol.max_dets)}
        result |= {f"AR{label}": self._mean(self.recall[:used, :, i, -1]) for i, label in enumerate(labels) if i}
        if self.lrp is not None:
            for name, part in _LRP_NAMES.items():
                values = np.array([getattr(row, part) for row in self.lrp])
                result[name] = self._mean(values[None])
        result |= {f"AP-{c}": float(ap[:used, k, 0].mean() * 100) for k, c in enumerate(self.classes)}
        if 0.5 in reported and used > 1:
            half = ap[np.isclose(self.thresholds, 0.5)][0, :, 0]
            result |= {f"AP50-{c}": float(half[k] * 100) for k, c in enumerate(self.classes)}
        if self.lrp is not None:
            result |= {f"threshold-{c}": self.lrp[k].threshold for k, c in enumerate(self.classes)}
        return result

    def _mean(self, values: np.ndarray) -> float:
        """Return the mean of (T, K) values over thresholds and weighted classes, in percent."""
        weights = np.broadcast_to(self.weights, values.shape)
        known = ~np.isnan(values)
        if not known.any() or not weights[known].any():
            return float("nan")
        return float((values[known] * weights[known]).sum() / weights[known].sum() * 100)


_LRP_NAMES = {
    "oLRP": "total",
    "oLRP_Loc": "localisation",
    "oLRP_FP": "false_positive",
    "oLRP_FN": "false_negative",
}


def _within_image_limit(detections: Detections, limit: int, images: int) -> np.ndarray:
    """Return a (N,) mask of the ``limit`` best detections of each image over all classes, as VisDrone counts them."""
    order = np.argsort(-detections.scores, kind="stable")
    keep = np.zeros(len(detections), dtype=bool)
    keep[order] = kernels.ranks(detections.image[order], images) < limit
    return keep


def score_order(detections: Detections, images: int) -> np.ndarray:
    """Return the indices that sort detections by descending score.

    Equal scores are ordered by image, then by position in the file, as COCO's stable merge sorts order them.
    """
    by_image, _ = kernels.group(detections.image, images)
    return by_image[np.argsort(-detections.scores[by_image], kind="stable")]


def match_classes(
    truth: GroundTruth, detections: Detections, protocol: Protocol, thresholds: np.ndarray
) -> Iterator[ClassMatches]:
    """Match detections to objects class by class, so that memory is bounded by the largest class.

    Args:
        truth: the ground truth after :func:`prepare`.
        detections: the detections after :func:`prepare`.
        protocol: its matching rule, areas and last limit are used.
        thresholds: (T,) IoU thresholds.

    Yields:
        The matches of each class, in the order of the classes.
    """
    areas = protocol.all_areas()
    images, classes = len(truth.image_ids), len(truth.classes)
    by_score = score_order(detections, images)
    order, starts = kernels.group(detections.category[by_score], classes)
    order = by_score[order]
    gt_order, _ = kernels.group(truth.image, images)
    by_class, gt_starts = kernels.group(truth.category[gt_order], classes)
    gt_order = gt_order[by_class]
    limits = np.minimum(thresholds, 1 - 1e-10)  # as in COCO, identical boxes match at a threshold of 1
    for k in range(classes):
        det_idxs = order[starts[k] : starts[k + 1]]
        gt_idxs = gt_order[gt_starts[k] : gt_starts[k + 1]]
        image = detections.image[det_idxs]
        rank = kernels.ranks(image, images)
        area, ignore = truth.area[gt_idxs], truth.ignore[gt_idxs]
        status, matched, overlap = kernels.match(
            image,
            detections.boxes[det_idxs],
            rank,
            np.searchsorted(truth.image[gt_idxs], np.arange(images + 1)),
            truth.boxes[gt_idxs],
            area,
            ignore,
            truth.shared[gt_idxs],
            areas,
            limits,
            _UNLIMITED if protocol.max_dets_per_image else protocol.max_dets[-1],
            protocol.matching == "voc",
            1.0 if protocol.overlap_plus_one else 0.0,
            protocol.strict_overlap,
        )
        inside = (area >= areas[:, :1]) & (area <= areas[:, 1:])
        positives = (inside & (~ignore | protocol.count_ignored)).sum(axis=1)
        yield ClassMatches(k, det_idxs, rank, gt_idxs, status, matched, overlap, positives)


def _apply_ignored_regions(
    truth: GroundTruth, detections: Detections, protocol: Protocol
) -> tuple[GroundTruth, Detections]:
    """Return ground truth without regions, and detections: regions become crowds, or remove what is inside them."""
    if not protocol.drop_in_ignored_regions:
        return truth.with_regions_as_crowds(), detections
    keep_gt, keep_det = outside_regions(truth, [(truth.image, truth.boxes), (detections.image, detections.boxes)])
    return truth.select(keep_gt), detections.select(keep_det)


def prepare(truth: GroundTruth, detections: Detections, protocol: Protocol) -> tuple[GroundTruth, Detections]:
    """Return the objects and detections that a protocol counts, with ignored regions and limits per image applied."""
    truth, detections = _apply_ignored_regions(truth, detections, protocol)
    if protocol.max_dets_per_image:
        detections = detections.select(_within_image_limit(detections, protocol.ap_limit, len(truth.image_ids)))
    return truth, detections


def evaluate_arrays(truth: GroundTruth, detections: Detections, protocol: Protocol) -> EvaluationResult:
    """Evaluate detections under a protocol.

    Args:
        truth: the ground truth; it is not modified.
        detections: the detections; they are not modified.
        protocol: areas, limits, thresholds and matching rules.

    Returns:
        The result, with NaN where a class or area has no objects and 0 where it has no detections.
    """
    truth, detections = _apply_ignored_regions(truth, detections, protocol)
    thresholds = np.array([*protocol.iou_thresholds, *protocol.extra_ious])
    if protocol.max_dets_per_image:
        parts = [detections.select(_within_image_limit(detections, m, len(truth.image_ids))) for m in protocol.max_dets]
        results = [_evaluate(truth, part, protocol, thresholds) for part in parts]
        last = results[-1]
        recall = np.concatenate([r.recall[..., -1:] for r in results], axis=-1)
        return EvaluationResult(
            protocol, last.classes, thresholds, last.ap, recall, last.positives, last.weights, last.lrp
        )
    return _evaluate(truth, detections, protocol, thresholds)


def _evaluate(
    truth: GroundTruth, detections: Detections, protocol: Protocol, thresholds: np.ndarray
) -> EvaluationResult:
    labels = ("all", *protocol.areas)
    shape = (len(thresholds), len(truth.classes), len(labels))
    ap = {name: np.full(shape, np.nan) for name in protocol.integrators}
    recall = np.full((*shape, len(protocol.max_dets)), np.nan)
    positives = np.zeros(shape[1:], dtype=np.int64)
    weights = np.zeros(shape[1])
    lrp: list[OptimalLRP] = []
    ap_limit, recall_limits = protocol.ap_limit, np.array(protocol.max_dets)
    if protocol.max_dets_per_image:  # the limits were applied to the detections
        ap_limit, recall_limits = _UNLIMITED, np.full(len(recall_limits), _UNLIMITED)
    for matches in match_classes(truth, detections, protocol, thresholds):
        k = matches.index
        positives[k] = matches.positives
        images = np.unique(truth.image[matches.gt_idxs])
        weights[k] = len(images) if protocol.class_mean == "images" else 1
        max_tp = max(1, len(matches.gt_idxs))
        fp_before, position, num_tp, num_fp = kernels.accumulate(matches.status, matches.rank, ap_limit, max_tp)
        counts = kernels.count_tp(matches.status, matches.rank, recall_limits)
        with np.errstate(invalid="ignore"):
            recall[:, k] = (counts / matches.positives[:, None]).transpose(2, 1, 0)
        for t, a in np.ndindex(shape[0], shape[2]):
            curve, num_gt = fp_before[a, t, : num_tp[a, t]], int(matches.positives[a])
            for name in protocol.integrators:
                ap[name][t, k, a] = average_precision(curve, int(num_fp[a, t]), num_gt, name)
        if protocol.olrp:
            true_positives = position[0, 0, : num_tp[0, 0]]
            scores, ious = detections.scores[matches.det_idxs[true_positives]], matches.overlap[true_positives, 0]
            num_gt, tau = int(matches.positives[0]), float(thresholds[0])
            lrp.append(optimal_lrp(fp_before[0, 0, : num_tp[0, 0]], ious, scores, num_gt, tau))
    return EvaluationResult(
        protocol, truth.classes, thresholds, ap, recall, positives, weights, lrp if protocol.olrp else None
    )
