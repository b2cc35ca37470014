"""What average precision is lost to, in the manner of TIDE (Bolya et al., ECCV 2020), by size and by density."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from d2tiny.data.coco.arrays import GroundTruth
from d2tiny.evaluation import kernels
from d2tiny.evaluation.detections import Detections
from d2tiny.evaluation.engine import match_classes, prepare, score_order
from d2tiny.evaluation.integrators import average_precision
from d2tiny.evaluation.protocols import Protocol

__all__ = ["ERRORS", "ErrorAnalysis", "analyse_errors", "lost_precision"]

# Kinds of detections. TIDE asks for a bad box before it asks for a wrong class; here the larger overlap decides.
TRUE, IGNORED, CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND = range(7)
ERRORS = ("missed", "localisation", "class", "both", "duplicate", "background")
_KIND = {"localisation": LOCALISATION, "class": CLASS, "both": BOTH, "duplicate": DUPLICATE, "background": BACKGROUND}
_MATCH, _BACKGROUND = 0.5, 0.1  # IoU


@dataclass(frozen=True)
class ErrorAnalysis:
    """Every detection and object with what became of it. N detections in falling order of score, G objects.

    Attributes:
        protocol: what was judged by; IoU 0.5 alone.
        truth: the objects that take part; regions have become ignored objects.
        found: the detections that take part.
        kind: (N,) of each detection: TRUE, IGNORED, or an error.
        target: (N,) object that a detection found, mislocates, mistakes or repeats; -1 for background.
        objects: (G,) to be found.
        hit: (G,) found by a detection of its class with IoU of at least 0.5.
        missed: (G,) neither found nor the target of a bad box or a wrong class; never ignored ones.
    """

    protocol: Protocol
    truth: GroundTruth
    found: Detections
    kind: np.ndarray
    target: np.ndarray
    objects: np.ndarray
    hit: np.ndarray
    missed: np.ndarray

    def counts(self) -> dict[str, int]:
        """Return how many cases of each error there are, at any score."""
        result = {name: int((self.kind == kind).sum()) for name, kind in _KIND.items()}
        return {"missed": int(self.missed.sum()), **result}


def analyse_errors(truth: GroundTruth, found: Detections, protocol: Protocol) -> ErrorAnalysis:
    """Match at IoU 0.5 and name every error.

    A false detection is, by the first that holds: a *duplicate* (IoU ≥ 0.5 with an object of its class that another one
    found), of the wrong *class* (IoU ≥ 0.5 with an object of another class), badly *localised* (IoU in [0.1, 0.5) with
    an object of its class), *both* (IoU in [0.1, 0.5) with one of another class), or *background*.

    Args:
        truth: objects.
        found: detections.
        protocol: its regions, limits, base area and matching hold.
    """
    truth, found = prepare(truth, found, protocol)
    low, high = protocol.base_area
    objects = ~truth.ignore & (truth.area >= low) & (truth.area <= high)
    order = score_order(found, len(truth.image_ids))
    kind = np.full(len(found), IGNORED, dtype=np.int8)
    target = np.full(len(found), -1, dtype=np.int64)
    hit = np.zeros(len(truth), dtype=bool)
    for matches in match_classes(truth, found, replace(protocol, areas={}), np.array([_MATCH])):
        counts = (matches.rank < protocol.ap_limit) | protocol.max_dets_per_image
        true, false = (counts & (matches.status[:, 0, 0] == value) for value in (kernels.TRUE, kernels.FALSE))
        kind[matches.detections[true]] = TRUE
        kind[matches.detections[false]] = BACKGROUND
        target[matches.detections[true]] = matches.objects[matches.matched[true]]
        hit[matches.objects[matches.matched[true]]] = True
    false = np.flatnonzero(kind == BACKGROUND)
    plus = 1.0 if protocol.overlap_plus_one else 0.0
    kind[false], target[false] = _false_kinds(truth, np.flatnonzero(objects), found.select(false), plus)
    aimed = np.zeros(len(truth), dtype=bool)
    aimed[target[(kind == LOCALISATION) | (kind == CLASS)]] = True
    missed = objects & ~hit & ~aimed
    return ErrorAnalysis(protocol, truth, found.select(order), kind[order], target[order], objects, hit, missed)


def _false_kinds(
    truth: GroundTruth, objects: np.ndarray, false: Detections, plus: float
) -> tuple[np.ndarray, np.ndarray]:
    """Kind and target of false detections."""
    by_image, starts = kernels.group(truth.image[objects], len(truth.image_ids))
    objects = objects[by_image]
    same, same_at, other, other_at = kernels.best_overlaps(
        false.image, false.category, false.boxes, starts, truth.category[objects], truth.boxes[objects], plus
    )
    # in rising order of precedence
    kind = np.full(len(false), BACKGROUND, dtype=np.int8)
    target = np.full(len(false), -1, dtype=np.int64)
    for chosen, name, at in (
        (other >= _BACKGROUND, BOTH, other_at),
        (same >= _BACKGROUND, LOCALISATION, same_at),
        (other >= _MATCH, CLASS, other_at),
        (same >= _MATCH, DUPLICATE, same_at),
    ):
        kind[chosen] = name
        target[chosen] = objects[at[chosen]]
    return kind, target


def lost_precision(
    analysis: ErrorAnalysis, *, area: tuple[float, float] | None = None, images: np.ndarray | None = None
) -> dict[str, float]:
    """AP50, and how much higher it would be without each kind of error, one at a time.

    Without *missed* means that missed objects are not counted; without *localisation* and *class*, that the best such
    detection of an object nobody found is right and the others are gone; without the rest, that they are gone.

    Args:
        analysis: of the whole dataset.
        area: consider objects of this area (px², low excluded from 0 on, high included), detections aimed at them, and
            false detections of this size.
        images: (I,) bool, consider these images.

    Returns:
        In percent points: ``AP50`` and one entry for each of :data:`ERRORS`; NaN without objects. And ``objects``.
    """
    truth, found, protocol = analysis.truth, analysis.found, analysis.protocol
    objects = analysis.objects.copy()
    area_of = found.boxes[:, 2] * found.boxes[:, 3]
    aimed = analysis.target >= 0
    area_of[aimed] = truth.area[analysis.target[aimed]]
    use = analysis.kind != IGNORED
    if area is not None:
        low, high = area if area[0] > 0 else (-1.0, area[1])
        objects &= (truth.area > low) & (truth.area <= high)
        use &= (area_of > low) & (area_of <= high)
    if images is not None:
        objects &= images[truth.image]
        use &= images[found.image]
    kind, target = analysis.kind[use], analysis.target[use]
    category = found.category[use].astype(np.int64)
    mean = _Mean(truth, objects | (truth.ignore & protocol.count_ignored), protocol)
    base = mean(category, kind == TRUE)
    result = {"objects": float(objects.sum()), "AP50": base}
    missed = np.bincount(truth.category[objects & analysis.missed], minlength=len(truth.classes))
    result["missed"] = mean(category, kind == TRUE, missed) - base
    for name, error in _KIND.items():
        here = kind == error
        keep, right, label = ~here, kind == TRUE, category.copy()
        if error in (LOCALISATION, CLASS):
            mended = _first_of_each(target, here, analysis.hit)
            keep[mended] = right[mended] = True
            label[mended] = truth.category[target[mended]]
        result[name] = mean(label[keep], right[keep]) - base
    return {name: result[name] for name in ("objects", "AP50", *ERRORS)}


def _first_of_each(target: np.ndarray, among: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Places of the first entry (best score) for each target that nobody found."""
    places = np.flatnonzero(among)
    places = places[~hit[target[places]]]
    _, first = np.unique(target[places], return_index=True)
    return places[first]


class _Mean:
    """Mean AP over the classes of some objects, as the protocol takes it; detections in falling order of score."""

    def __init__(self, truth: GroundTruth, objects: np.ndarray, protocol: Protocol) -> None:
        self.positives = np.bincount(truth.category[objects], minlength=len(truth.classes))
        self.weights: np.ndarray = np.ones(len(truth.classes))
        if protocol.class_mean == "images":
            pairs = np.unique(np.stack((truth.category, truth.image), axis=1), axis=0)
            self.weights = np.bincount(pairs[:, 0], minlength=len(truth.classes)).astype(float)
        self.integrator = protocol.integrators[0]

    def __call__(self, category: np.ndarray, true: np.ndarray, fewer: np.ndarray | None = None) -> float:
        """In percent; ``fewer`` (K,) objects are not counted."""
        order, starts = kernels.group(category, len(self.positives))
        values, weights = [], []
        for k in np.flatnonzero(self.positives):
            right = true[order[starts[k] : starts[k + 1]]]
            places = np.flatnonzero(right)
            false = len(right) - len(places)
            left = int(self.positives[k] - (0 if fewer is None else fewer[k]))
            if left:
                before = places - np.arange(len(places))
                values.append(average_precision(before, false, left, self.integrator))
            else:  # only misses: without them the class is perfect, or nothing but false alarms
                values.append(0.0 if false else 1.0)
            weights.append(self.weights[k])
        return float(np.average(values, weights=weights) * 100) if values else float("nan")
