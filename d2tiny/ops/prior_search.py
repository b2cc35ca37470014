"""The best priors of each ground truth: one entrance for priors on grids and for any boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from d2tiny.ops.block_topk import Blocks, above_blocks, topk_blocks
from d2tiny.ops.boxes import DENSE_ELEMENTS, chunks
from d2tiny.ops.gaussian import Score, ScoreFn
from d2tiny.ops.grid_topk import Lattices, above_grid, topk_grid
from d2tiny.ops.matches import Matches

__all__ = ["best_dense", "find_best", "find_fitting", "fitting_dense", "score_aligned"]


def _dense_scores(priors: Tensor, gts: Tensor, score: ScoreFn) -> Tensor:
    """Return the (g, N) scores of a chunk of ground truths; both in centre, width, height."""
    dx = priors[None, :, 0] - gts[:, None, 0]
    dy = priors[None, :, 1] - gts[:, None, 1]
    return score(dx, dy, priors[None, :, 2], priors[None, :, 3], gts[:, None, 2], gts[:, None, 3])


def score_aligned(priors: Tensor, gts: Tensor, score: ScoreFn, pairs: Matches) -> Tensor:
    """Another score (P,) of pairs; both boxes in centre, width, height."""
    p, g = priors[pairs.prior], gts[pairs.gt]
    return score(p[:, 0] - g[:, 0], p[:, 1] - g[:, 1], p[:, 2], p[:, 3], g[:, 2], g[:, 3])


def best_dense(priors: Tensor, gts: Tensor, score: ScoreFn, k: int, over: float = -math.inf) -> Matches:
    """As :func:`find_best`, for any (N, 4) priors: every score is computed, in chunks."""
    parts: list[Matches] = []
    k = min(k, len(priors))
    for part in chunks(len(gts), len(priors), DENSE_ELEMENTS) if k > 0 else ():
        value = _dense_scores(priors, gts[part], score)
        kth = value.topk(k, dim=1).values[:, -1:].clamp(min=math.nextafter(over, math.inf))
        gi, prior = (value >= kth).nonzero(as_tuple=True)
        parts.append(Matches(gi + part.start, prior, value[gi, prior]))
    return Matches.cat(parts, gts.device)


def fitting_dense(priors: Tensor, gts: Tensor, score: ScoreFn, threshold: float | Tensor) -> Iterator[Matches]:
    """As :func:`find_fitting`, for any (N, 4) priors: every score is computed, in chunks."""
    for part in chunks(len(gts), len(priors), DENSE_ELEMENTS):
        value = _dense_scores(priors, gts[part], score)
        limit = threshold[part, None] if isinstance(threshold, Tensor) else threshold
        gi, prior = (value >= limit).nonzero(as_tuple=True)
        yield Matches(gi + part.start, prior, value[gi, prior])


def _bounded(score: ScoreFn) -> Score | None:
    return score if isinstance(score, Score) and score.upper is not None else None


def find_best(priors: Lattices | Blocks, gts: Tensor, score: ScoreFn, k: int, over: float | None = None) -> Matches:
    """Find the k best priors of each ground truth, and all that tie with the k-th.

    Args:
        priors: lattices (a window of each level is searched) or blocks (those that cannot win are left out).
        gts: (G, 4) float64 centre, width, height.
        score: falls or stays when |dx| or |dy| grows. On blocks, one that is no :class:`Score` with an upper bound is
            computed for every prior, in chunks.
        k: how many.
        over: pairs that do not score more than this are left out; None takes the score's ``floor``.

    Returns:
        The pairs, in no particular order; the same for both kinds of priors.
    """
    if over is None:
        over = score.floor if isinstance(score, Score) else -math.inf
    if isinstance(priors, Lattices):
        return topk_grid(priors, gts, score, k, over)
    bounded = _bounded(score)
    if bounded is None:
        return best_dense(priors.flat, gts, score, k, over)
    return topk_blocks(priors, gts, bounded, k, over)


def find_fitting(
    priors: Lattices | Blocks, gts: Tensor, score: ScoreFn, threshold: float | Tensor
) -> Iterator[Matches]:
    """Find all pairs that score at least a threshold.

    Args:
        priors: see :func:`find_best`.
        gts: likewise.
        score: likewise.
        threshold: one for all or (G,).

    Yields:
        The pairs, part by part and in no particular order: there may be more of them than fit into memory.
    """
    if isinstance(priors, Lattices):
        return above_grid(priors, gts, score, threshold)
    bounded = _bounded(score)
    if bounded is None:
        return fitting_dense(priors.flat, gts, score, threshold)
    return above_blocks(priors, gts, bounded, threshold)
