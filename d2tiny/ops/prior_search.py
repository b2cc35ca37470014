"""The best priors of each ground truth: one entrance for priors on grids and for any boxes."""

from __future__ import annotations

import math

from torch import Tensor

from d2tiny.ops.block_topk import Blocks, above_blocks, topk_blocks
from d2tiny.ops.boxes import DENSE_ELEMENTS, chunks
from d2tiny.ops.gaussian import Score, ScoreFn
from d2tiny.ops.grid_topk import Lattices, above_grid, topk_grid
from d2tiny.ops.matches import Matches

__all__ = ["score_aligned", "search", "search_dense"]


def _dense_scores(priors: Tensor, gts: Tensor, score: ScoreFn) -> Tensor:
    """Return the (g, N) scores of a chunk of ground truths; both in centre, width, height."""
    dx = priors[None, :, 0] - gts[:, None, 0]
    dy = priors[None, :, 1] - gts[:, None, 1]
    return score(dx, dy, priors[None, :, 2], priors[None, :, 3], gts[:, None, 2], gts[:, None, 3])


def score_aligned(priors: Tensor, gts: Tensor, score: ScoreFn, pairs: Matches) -> Tensor:
    """Another score (P,) of pairs; both boxes in centre, width, height."""
    p, g = priors[pairs.prior], gts[pairs.gt]
    return score(p[:, 0] - g[:, 0], p[:, 1] - g[:, 1], p[:, 2], p[:, 3], g[:, 2], g[:, 3])


def search_dense(
    priors: Tensor,
    gts: Tensor,
    score: ScoreFn,
    k: int = 0,
    threshold: float | Tensor | None = None,
    over: float = -math.inf,
) -> tuple[Matches, Matches]:
    """As :func:`search`, for any (N, 4) priors: every score is computed once, and memory does not grow with G."""
    top: list[Matches] = []
    above: list[Matches] = []
    k = min(k, len(priors))
    for part in chunks(len(gts), len(priors), DENSE_ELEMENTS):
        value = _dense_scores(priors, gts[part], score)
        if k > 0:
            kth = value.topk(k, dim=1).values[:, -1:].clamp(min=math.nextafter(over, math.inf))
            gi, prior = (value >= kth).nonzero(as_tuple=True)
            top.append(Matches(gi + part.start, prior, value[gi, prior]))
        if threshold is not None:
            limit = threshold[part, None] if isinstance(threshold, Tensor) else threshold
            gi, prior = (value >= limit).nonzero(as_tuple=True)
            above.append(Matches(gi + part.start, prior, value[gi, prior]))
    return Matches.cat(top, gts.device), Matches.cat(above, gts.device)


def search(
    priors: Lattices | Blocks,
    gts: Tensor,
    score: ScoreFn,
    k: int = 0,
    threshold: float | Tensor | None = None,
    over: float = -math.inf,
) -> tuple[Matches, Matches]:
    """Find the best priors of each ground truth, and all that fit well.

    Args:
        priors: lattices (a window of each level is searched) or blocks (those that cannot win are left out).
        gts: (G, 4) float64 centre, width, height.
        score: falls or stays when |dx| or |dy| grows. On blocks, one that is no :class:`Score` with an upper bound is
            computed for every prior, in chunks.
        k: how many are best; all that tie with the k-th are. 0 looks for none.
        threshold: lowest score that fits, one for all or (G,); None looks for none.
        over: best pairs that do not score more than this are left out.

    Returns:
        The best pairs and the fitting pairs, in no particular order; the same for both kinds of priors.
    """
    best = fitting = Matches.cat([], gts.device)
    if isinstance(priors, Lattices):
        if k > 0:
            best = topk_grid(priors, gts, score, k, over)
        if threshold is not None:
            fitting = above_grid(priors, gts, score, threshold)
        return best, fitting
    if not isinstance(score, Score) or score.upper is None:
        return search_dense(priors.flat, gts, score, k, threshold, over)
    if k > 0:
        best = topk_blocks(priors, gts, score, k, over)
    if threshold is not None:
        fitting = above_blocks(priors, gts, score, threshold)
    return best, fitting
