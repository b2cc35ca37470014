"""Search for the best priors of each ground truth, on regular grids or among arbitrary boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from d2tiny.ops.block_topk import Blocks, above_blocks, topk_blocks
from d2tiny.ops.boxes import DENSE_ELEMENTS, chunks
from d2tiny.ops.gaussian import Score, ScoreFn
from d2tiny.ops.grid_topk import PriorGrids, above_grid, topk_grid
from d2tiny.ops.matches import Matches

__all__ = ["above_dense", "priors_above", "score_aligned", "topk_dense", "topk_priors"]


def _dense_scores(priors: Tensor, gts: Tensor, score: ScoreFn) -> Tensor:
    """Return the (g, N) scores of (g, 4) ground truths and (N, 4) priors, both as centre, width, height."""
    dx = priors[None, :, 0] - gts[:, None, 0]
    dy = priors[None, :, 1] - gts[:, None, 1]
    return score(dx, dy, priors[None, :, 2], priors[None, :, 3], gts[:, None, 2], gts[:, None, 3])


def score_aligned(priors: Tensor, gts: Tensor, score: ScoreFn, pairs: Matches) -> Tensor:
    """Compute a score for given pairs.

    Args:
        priors: (N, 4) centre, width, height in px.
        gts: (G, 4) centre, width, height in px.
        score: the score function.
        pairs: P pairs; their own scores are not read.

    Returns:
        (P,) scores.
    """
    p, g = priors[pairs.prior], gts[pairs.gt]
    return score(p[:, 0] - g[:, 0], p[:, 1] - g[:, 1], p[:, 2], p[:, 3], g[:, 2], g[:, 3])


def topk_dense(priors: Tensor, gts: Tensor, score: ScoreFn, k: int, floor: float = -math.inf) -> Matches:
    """Do what :func:`topk_priors` does for (N, 4) priors by computing every score, in chunks."""
    parts: list[Matches] = []
    k = min(k, len(priors))
    for part in chunks(len(gts), len(priors), DENSE_ELEMENTS) if k > 0 else ():
        value = _dense_scores(priors, gts[part], score)
        kth = value.topk(k, dim=1).values[:, -1:].clamp(min=math.nextafter(floor, math.inf))
        gi, prior = (value >= kth).nonzero(as_tuple=True)
        parts.append(Matches(gi + part.start, prior, value[gi, prior]))
    return Matches.cat(parts, gts.device)


def above_dense(priors: Tensor, gts: Tensor, score: ScoreFn, threshold: float | Tensor) -> Iterator[Matches]:
    """Do what :func:`priors_above` does for (N, 4) priors by computing every score, in chunks."""
    for part in chunks(len(gts), len(priors), DENSE_ELEMENTS):
        value = _dense_scores(priors, gts[part], score)
        limit = threshold[part, None] if isinstance(threshold, Tensor) else threshold
        gi, prior = (value >= limit).nonzero(as_tuple=True)
        yield Matches(gi + part.start, prior, value[gi, prior])


def _with_bound(score: ScoreFn) -> Score | None:
    return score if isinstance(score, Score) and score.upper_bound is not None else None


def topk_priors(
    priors: PriorGrids | Blocks, gts: Tensor, score: ScoreFn, k: int, floor: float | None = None
) -> Matches:
    """Find the k best priors of each ground truth, and all priors that tie with the k-th.

    Args:
        priors: regular grids, of which a window around each ground truth is searched, or blocks of arbitrary boxes, of
            which those that cannot contain a result are skipped.
        gts: (G, 4) float64 boxes as centre, width, height in px.
        score: a score that does not increase with |dx| or |dy|. Among blocks, a plain function or a :class:`Score`
            without an upper bound is computed for every prior, in chunks.
        k: number of priors per ground truth.
        floor: pairs must score more than this; None uses the score's own ``floor``.

    Returns:
        The pairs, in no particular order; the same set for both representations of the priors.
    """
    if floor is None:
        floor = score.floor if isinstance(score, Score) else -math.inf
    if isinstance(priors, PriorGrids):
        return topk_grid(priors, gts, score, k, floor)
    bounded = _with_bound(score)
    if bounded is None:
        return topk_dense(priors.flat, gts, score, k, floor)
    return topk_blocks(priors, gts, bounded, k, floor)


def priors_above(
    priors: PriorGrids | Blocks, gts: Tensor, score: ScoreFn, threshold: float | Tensor
) -> Iterator[Matches]:
    """Find all pairs that score at least a threshold.

    Args:
        priors: as in :func:`topk_priors`.
        gts: as in :func:`topk_priors`.
        score: as in :func:`topk_priors`.
        threshold: a number, or (G,) one for each ground truth.

    Yields:
        The pairs, in chunks and in no particular order; all of them together may not fit into memory.
    """
    if isinstance(priors, PriorGrids):
        return above_grid(priors, gts, score, threshold)
    bounded = _with_bound(score)
    if bounded is None:
        return above_dense(priors.flat, gts, score, threshold)
    return above_blocks(priors, gts, bounded, threshold)
