"""Anchors that fit the objects of a dataset, for heads that match by shape (YOLOv5)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from d2tiny.utils.errors import DatasetError

__all__ = ["TINY_ANCHORS", "AnchorFit", "anchor_recall", "fit_anchors"]

# What the configs have for tiny objects (SPEC §8.2), px
TINY_ANCHORS = np.array([[[s, s] for s in level] for level in ((4, 7, 11), (15, 21, 29), (40, 60, 90))], dtype=float)

_TRIES = 10


@dataclass(frozen=True)
class AnchorFit:
    """Anchors and how well they serve the objects.

    Attributes:
        anchors: (L, A, 2) width and height in px, levels from fine to coarse, each by area.
        recall: share of the objects that match some anchor.
        ratio: mean over the objects of the best anchor's larger ratio of sides, 1 at best.
    """

    anchors: np.ndarray
    recall: float
    ratio: float

    def override(self) -> str:
        """The config override that sets them."""
        levels = ",".join("[" + ",".join(f"[{w:g},{h:g}]" for w, h in level) + "]" for level in self.anchors.tolist())
        return f"model.head.anchors=[{levels}]"


def anchor_recall(sizes: np.ndarray, anchors: np.ndarray, max_ratio: float = 4.0) -> tuple[float, float]:
    """How well anchors serve objects.

    Args:
        sizes: (G, 2) width and height in px.
        anchors: (…, 2) likewise.
        max_ratio: an object matches an anchor when no side differs by so many times.

    Returns:
        Share of the objects that match, and the mean of their best ratio.
    """
    ratio = np.log(sizes)[:, None] - np.log(anchors.reshape(-1, 2))[None]
    best = np.exp(np.abs(ratio).max(axis=2).min(axis=1))
    return float((best < max_ratio).mean()), float(best.mean())


def fit_anchors(
    sizes: np.ndarray, *, levels: int = 3, per_level: int = 3, max_ratio: float = 4.0, seed: int = 0
) -> AnchorFit:
    """K-means on the logarithms of width and height, the best of ten starts by the mean ratio.

    Matching asks for ratios of sides, so distances are taken between logarithms: in pixels or their roots a few large
    objects would draw the anchors away from the many tiny ones.

    Args:
        sizes: (G, 2) width and height in px, as the network sees them.
        levels: L.
        per_level: A.
        max_ratio: of the head's matching.
        seed: of the starts.

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
    for start in range(_TRIES):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty cluster: that try loses
            centres, _ = kmeans2(logs, count, iter=50, minit="++", seed=seed + start)
        anchors = np.exp(centres[np.argsort(centres.sum(axis=1))])
        recall, ratio = anchor_recall(sizes, anchors, max_ratio)
        if best is None or ratio < best.ratio:
            best = AnchorFit(anchors.round(1).reshape(levels, per_level, 2), recall, ratio)
    assert best is not None
    return best
