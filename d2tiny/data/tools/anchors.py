"""Fit anchors to the objects of a dataset, for heads that match anchors by shape (YOLOv5)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from d2tiny.utils.errors import DatasetError

__all__ = ["TINY_ANCHORS", "AnchorFit", "anchor_recall", "fit_anchors"]

# Anchors (width, height) in px of the configs for tiny objects, see docs/papers/yolo.md
TINY_ANCHORS = np.array([[[s, s] for s in level] for level in ((4, 7, 11), (15, 21, 29), (40, 60, 90))], dtype=float)

_RUNS = 10  # of k-means; the best one counts


@dataclass(frozen=True)
class AnchorFit:
    """Anchors, and how well they match the objects.

    Attributes:
        anchors: (L, A, 2) width and height in px, levels from fine to coarse, each by rising area.
        recall: share of the objects that match at least one anchor, in [0, 1].
        ratio: how much the sides of objects differ from those of their best anchor: mean over the objects of the larger
            ratio of widths or heights, at least 1.
    """

    anchors: np.ndarray
    recall: float
    ratio: float

    def override(self) -> str:
        """Return the config override that sets these anchors."""
        levels = ",".join("[" + ",".join(f"[{w:g},{h:g}]" for w, h in level) + "]" for level in self.anchors.tolist())
        return f"model.head.anchors=[{levels}]"


def anchor_recall(sizes: np.ndarray, anchors: np.ndarray, max_ratio: float = 4.0) -> tuple[float, float]:
    """Compute how well anchors match objects.

    Args:
        sizes: (G, 2) width and height of the objects in px.
        anchors: (..., 2) width and height of the anchors in px.
        max_ratio: an object matches an anchor if neither side is larger or smaller by this factor or more.

    Returns:
        ``recall`` and ``ratio`` as in :class:`AnchorFit`.
    """
    ratio = np.log(sizes)[:, None] - np.log(anchors.reshape(-1, 2))[None]
    best = np.exp(np.abs(ratio).max(axis=2).min(axis=1))
    return float((best < max_ratio).mean()), float(best.mean())


def fit_anchors(
    sizes: np.ndarray, *, levels: int = 3, per_level: int = 3, max_ratio: float = 4.0, seed: int = 0
) -> AnchorFit:
    """Fit anchors by k-means on the logarithms of width and height; of ten runs, the one with the lowest mean ratio.

    Matching compares ratios of sides, so distances are taken between logarithms: in pixels or their square roots a few
    large objects would draw the anchors away from the many tiny ones.

    Args:
        sizes: (G, 2) width and height of the objects in px, at the network's input size.
        levels: number of feature levels L.
        per_level: number of anchors A of each level.
        max_ratio: matching threshold of the head, see :func:`anchor_recall`.
        seed: random seed of the first run; later runs count up from it.

    Raises:
        DatasetError: fewer different sizes than anchors, or sizes that are not positive.
    """
    from scipy.cluster.vq import kmeans2  # slow to import

    count = levels * per_level
    if levels < 1 or per_level < 1:
        raise DatasetError(f"There must be a level and an anchor at least, got {levels} and {per_level}.")
    sizes = np.asarray(sizes, dtype=np.float64).reshape(-1, 2)
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise DatasetError("Anchors cannot be fitted to boxes without width or height; `d2tiny check` finds them.")
    if len(np.unique(sizes, axis=0)) < count:
        raise DatasetError(f"{count} anchors need at least as many different box sizes; there are fewer.")
    logs, best = np.log(sizes), None
    for run in range(_RUNS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty cluster: that run is not the best
            centres, _ = kmeans2(logs, count, iter=50, minit="++", seed=seed + run)
        anchors = np.exp(centres[np.argsort(centres.sum(axis=1))])
        recall, ratio = anchor_recall(sizes, anchors, max_ratio)
        if best is None or ratio < best.ratio:
            best = AnchorFit(anchors.round(1).reshape(levels, per_level, 2), recall, ratio)
    assert best is not None
    return best
