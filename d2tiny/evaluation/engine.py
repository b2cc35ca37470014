"""The one evaluation engine: ground truth and detections as arrays, any protocol."""

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
    """One class after matching. A areas (the first is all), T thresholds, N detections in falling order of score.

    Attributes:
        index: of the class.
        detections: (N,) indices into the detections that were given.
        rank: (N,) place of each among the detections of its image.
        objects: (G,) indices into the ground truth that was given.
        status: (N, A, T) uint8, see :mod:`d2tiny.evaluation.kernels`.
        matched: (N,) index into ``objects`` of what is taken in all areas at the first threshold, or -1.
        overlap: (N, A) IoU with what is taken at the first threshold.
        positives: (A,) objects to find.
    """

    index: int
    detections: np.ndarray
    rank: np.ndarray
    objects: np.ndarray
    status: np.ndarray
    matched: np.ndarray
    overlap: np.ndarray
    positives: np.ndarray


@dataclass(frozen=True)
class EvaluationResult:
    """Numbers of an evaluation. T thresholds, K classes, A areas (the first is all), M limits; NaN without objects.

    Attributes:
        protocol: what was computed.
        classes: K names.
        thresholds: (T,) the protocol's, then its extra ones.
        ap: integrator → (T, K, A) in [0, 1].
        recall: (T, K, A, M) in [0, 1].
        positives: (K, A) objects to find.
        weights: (K,) of the classes in means.
        lrp: :class:`OptimalLRP` of each class, or None.
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
        """Return all metrics by name, in percent; NaN where there is no object.

        ``AP, AP50, AP75`` and others of ``extra_ious``, ``AP{bin}``, ``AR@{limit}``, ``AR{bin}``, ``oLRP*`` (lower is
        better), ``AP50_{integrator}``, ``AP-{class}``, and ``threshold-{class}`` (score of the lowest LRP, in [0, 1]).
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
        if self.lrp is not None:
            result |= {f"threshold-{c}": self.lrp[k].threshold for k, c in enumerate(self.classes)}
        return result

    def _mean(self, values: np.ndarray) -> float:
        """Mean of (T, K) over thresholds and weighted classes, in percent."""
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


def _limit_of_image(found: Detections, limit: int, images: int) -> np.ndarray:
    """The first rows of each image, over all classes (VisDrone's files are sorted by score; so is this)."""
    order = np.argsort(-found.scores, kind="stable")
    keep = np.zeros(len(found), dtype=bool)
    keep[order] = kernels.ranks(found.image[order], images) < limit
    return keep


def score_order(found: Detections, images: int) -> np.ndarray:
    """Indices by falling score; equal ones in the order of images, then of the file, as COCO's merge sorts give it."""
    by_image, _ = kernels.group(found.image, images)
    return by_image[np.argsort(-found.scores[by_image], kind="stable")]


def match_classes(
    truth: GroundTruth, found: Detections, protocol: Protocol, thresholds: np.ndarray
) -> Iterator[ClassMatches]:
    """Match class by class; nothing larger than a class is held.

    Args:
        truth: regions must have been dealt with.
        found: detections.
        protocol: matching rule, areas and the last limit.
        thresholds: (T,) IoU.
    """
    areas = protocol.all_areas()
    images, classes = len(truth.image_ids), len(truth.classes)
    by_score = score_order(found, images)
    order, starts = kernels.group(found.category[by_score], classes)
    order = by_score[order]
    gt_order, _ = kernels.group(truth.image, images)
    by_class, gt_starts = kernels.group(truth.category[gt_order], classes)
    gt_order = gt_order[by_class]
    limits = np.minimum(thresholds, 1 - 1e-10)  # COCO: boxes that are equal match at a threshold of 1
    for k in range(classes):
        dets = order[starts[k] : starts[k + 1]]
        objects = gt_order[gt_starts[k] : gt_starts[k + 1]]
        image = found.image[dets]
        rank = kernels.ranks(image, images)
        area, ignore = truth.area[objects], truth.ignore[objects]
        status, matched, overlap = kernels.match(
            image,
            found.boxes[dets],
            rank,
            np.searchsorted(truth.image[objects], np.arange(images + 1)),
            truth.boxes[objects],
            area,
            ignore,
            truth.shared[objects],
            areas,
            limits,
            _UNLIMITED if protocol.max_dets_per_image else protocol.max_dets[-1],
            protocol.matching == "voc",
            1.0 if protocol.overlap_plus_one else 0.0,
            protocol.strict_overlap,
        )
        inside = (area >= areas[:, :1]) & (area <= areas[:, 1:])
        positives = (inside & (~ignore | protocol.count_ignored)).sum(axis=1)
        yield ClassMatches(k, dets, rank, objects, status, matched, overlap, positives)


def apply_regions(truth: GroundTruth, found: Detections, protocol: Protocol) -> tuple[GroundTruth, Detections]:
    """Deal with ignored regions as the protocol says; afterwards there are none."""
    if not protocol.drop_in_ignored_regions:
        return truth.with_regions_as_crowds(), found
    stay, stay_found = outside_regions(truth, [(truth.image, truth.boxes), (found.image, found.boxes)])
    return truth.select(stay), found.select(stay_found)


def prepare(truth: GroundTruth, found: Detections, protocol: Protocol) -> tuple[GroundTruth, Detections]:
    """Return what takes part under a protocol: regions are dealt with, and limits over all classes applied."""
    truth, found = apply_regions(truth, found, protocol)
    if protocol.max_dets_per_image:
        found = found.select(_limit_of_image(found, protocol.ap_limit, len(truth.image_ids)))
    return truth, found


def evaluate_arrays(truth: GroundTruth, found: Detections, protocol: Protocol) -> EvaluationResult:
    """Evaluate detections.

    Args:
        truth: the objects; not modified.
        found: the detections; not modified.
        protocol: areas, limits, thresholds, rules.

    Returns:
        All numbers; NaN where a class or bin has no object, 0 where there is no detection.
    """
    truth, found = apply_regions(truth, found, protocol)
    thresholds = np.array([*protocol.iou_thresholds, *protocol.extra_ious])
    if protocol.max_dets_per_image:
        parts = [found.select(_limit_of_image(found, m, len(truth.image_ids))) for m in protocol.max_dets]
        result = [_evaluate(truth, part, protocol, thresholds) for part in parts]
        last = result[-1]
        recall = np.concatenate([r.recall[..., -1:] for r in result], axis=-1)
        return EvaluationResult(
            protocol, last.classes, thresholds, last.ap, recall, last.positives, last.weights, last.lrp
        )
    return _evaluate(truth, found, protocol, thresholds)


def _evaluate(truth: GroundTruth, found: Detections, protocol: Protocol, thresholds: np.ndarray) -> EvaluationResult:
    labels = ("all", *protocol.areas)
    shape = (len(thresholds), len(truth.classes), len(labels))
    ap = {name: np.full(shape, np.nan) for name in protocol.integrators}
    recall = np.full((*shape, len(protocol.max_dets)), np.nan)
    positives = np.zeros(shape[1:], dtype=np.int64)
    weights = np.zeros(shape[1])
    lrp: list[OptimalLRP] = []
    ap_limit, recall_limits = protocol.ap_limit, np.array(protocol.max_dets)
    if protocol.max_dets_per_image:  # has been done
        ap_limit, recall_limits = _UNLIMITED, np.full(len(recall_limits), _UNLIMITED)
    for matches in match_classes(truth, found, protocol, thresholds):
        k = matches.index
        positives[k] = matches.positives
        images = np.unique(truth.image[matches.objects])
        weights[k] = len(images) if protocol.class_mean == "images" else 1
        most = max(1, len(matches.objects))
        before, position, true, false = kernels.accumulate(matches.status, matches.rank, ap_limit, most)
        counts = kernels.count_true(matches.status, matches.rank, recall_limits)
        with np.errstate(invalid="ignore"):
            recall[:, k] = (counts / matches.positives[:, None]).transpose(2, 1, 0)
        for a in range(shape[2]):
            number = int(matches.positives[a])
            for t in range(shape[0]):
                curve = before[a, t, : true[a, t]]
                for name in protocol.integrators:
                    ap[name][t, k, a] = average_precision(curve, int(false[a, t]), number, name)
        if protocol.olrp:
            places = position[0, 0, : true[0, 0]]
            lrp.append(
                optimal_lrp(
                    before[0, 0, : true[0, 0]],
                    matches.overlap[places, 0],
                    found.scores[matches.detections[places]],
                    int(matches.positives[0]),
                    float(thresholds[0]),
                )
            )
    return EvaluationResult(
        protocol, truth.classes, thresholds, ap, recall, positives, weights, lrp if protocol.olrp else None
    )
