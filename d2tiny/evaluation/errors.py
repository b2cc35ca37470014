"""What average precision is lost to, in the manner of TIDE (Bolya et al., ECCV 2020), by size and by density."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from d2tiny.data.ground_truth import GroundTruth
from d2tiny.evaluation import kernels
from d2tiny.evaluation.detections import Detections
from d2tiny.evaluation.engine import match_classes
from d2tiny.evaluation.integrators import average_precision
from d2tiny.evaluation.protocols import INFINITE, Protocol

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
        truth: the objects; regions have become ignored objects.
        found: the detections.
        kind: (N,) of each detection: TRUE, IGNORED, or an error.
        target: (N,) object that a detection found, mislocates, mistakes or repeats; -1 for background.
        hit: (G,) found by a detection of its class with IoU of at least 0.5.
        missed: (G,) neither found nor the target of a bad box or a wrong class; never ignored ones.
    """

    truth: GroundTruth
    found: Detections
    kind: np.ndarray
    target: np.ndarray
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
        protocol: gives the limit of detections.
    """
    truth = truth.with_regions_as_crowds()
    plain = replace(protocol, areas={}, base_area=(0.0, INFINITE), drop_in_regions=False)
    kind = np.full(len(found), IGNORED, dtype=np.int8)
    target = np.full(len(found), -1, dtype=np.int64)
    hit = np.zeros(len(truth), dtype=bool)
    for matches in match_classes(truth, found, plain, np.array([_MATCH])):
        status = matches.status[:, 0, 0]
        kind[matches.detections[status == kernels.TRUE]] = TRUE
        kind[matches.detections[status == kernels.FALSE]] = BACKGROUND
        taken = (status == kernels.TRUE) & (matches.matched >= 0)
        target[matches.detections[taken]] = matches.objects[matches.matched[taken]]
        hit[matches.objects[matches.matched[taken]]] = True
    false = np.flatnonzero(kind == BACKGROUND)
    kind[false], target[false] = _false_kinds(truth, found.select(false))
    aimed = np.zeros(len(truth), dtype=bool)
    aimed[target[(kind == LOCALISATION) | (kind == CLASS)]] = True
    order = np.argsort(-found.scores, kind="stable")
    return ErrorAnalysis(
        truth, found.select(order), kind[order], target[order], hit, ~hit & ~aimed & ~truth.ignore
    )  # fmt: skip


def _false_kinds(truth: GroundTruth, false: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Kind and target of false detections."""
    objects = np.flatnonzero(~truth.ignore)
    by_image, starts = kernels.group(truth.image[objects], len(truth.image_ids))
    objects = objects[by_image]
    same, same_at, other, other_at = kernels.best_overlaps(
        false.image, false.category, false.boxes, starts, truth.category[objects], truth.boxes[objects]
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
    truth, found = analysis.truth, analysis.found
    objects = ~truth.ignore
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
    positives = np.bincount(truth.category[objects], minlength=len(truth.classes))
    missed = np.bincount(truth.category[objects & analysis.missed], minlength=len(truth.classes))
    base = _mean_ap(category, kind == TRUE, positives)
    result = {"objects": float(positives.sum()), "AP50": base}
    result["missed"] = _mean_ap(category, kind == TRUE, positives - missed, positives > 0) - base
    for name, error in _KIND.items():
        here = kind == error
        keep, right, label = ~here, kind == TRUE, category
        if error in (LOCALISATION, CLASS):
            mended = _first_of_each(target, here & ~analysis.hit[target])
            keep, right = keep | mended, right | mended
            label = np.where(mended, truth.category[target], category)
        result[name] = _mean_ap(label[keep], right[keep], positives) - base
    return {name: result[name] for name in ("objects", "AP50", *ERRORS)}


def _first_of_each(target: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Mask of the first entry (best score) for each target."""
    places = np.flatnonzero(among)
    _, first = np.unique(target[places], return_index=True)
    result = np.zeros(len(target), dtype=bool)
    result[places[first]] = True
    return result


def _mean_ap(category: np.ndarray, true: np.ndarray, positives: np.ndarray, counted: np.ndarray | None = None) -> float:
    """Mean over classes of COCO's AP, in percent; detections in falling order of score."""
    order, starts = kernels.group(category, len(positives))
    values = []
    for k in np.flatnonzero(positives > 0 if counted is None else counted):
        right = true[order[starts[k] : starts[k + 1]]]
        places = np.flatnonzero(right)
        before = places - np.arange(len(places))
        # Objects that no longer count can leave none: then everything that remains has been found.
        values.append(average_precision(before, int((~right).sum()), int(positives[k]), "coco101"))
    known = [1.0 if np.isnan(v) else v for v in values]
    return float(np.mean(known) * 100) if known else float("nan")
