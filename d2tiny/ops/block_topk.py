"""The best priors of a ground truth among any boxes, without a (ground truth × prior) matrix.

Boxes that are near each other and of about the same size are put into blocks of 64. What the best box of a block could
score at most follows from the range of its centres and sizes; a block whose bound stays under what other boxes do
score is never looked into. For scattered objects a few blocks of hundreds remain.

Letters: G ground truths, N priors, B blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from d2tiny.ops.boxes import DENSE_ELEMENTS, chunks
from d2tiny.ops.gaussian import Score
from d2tiny.ops.matches import Matches, best_scores, first_k

__all__ = ["Blocks", "above_blocks", "topk_blocks"]

_SIZE = 64
_MORE_SEEDS = 3
# Searched together, so that memory does not grow with their number.
_GROUND_TRUTHS = 1024
# A bound and a score are computed by different roundings; no block is lost to the last digits.
_SLACK = 1e-9


@dataclass(frozen=True)
class Blocks:
    """N boxes in B blocks.

    Attributes:
        flat: (N, 4) float64 centre, width, height, in the given order.
        boxes: (B, 64, 4) the same by blocks; filled up with copies.
        index: (B, 64) int64 index of each box in ``flat``, -1 for a copy.
        low: (B, 4) smallest centre, width, height of each block.
        high: (B, 4) largest ones.
    """

    flat: Tensor
    boxes: Tensor
    index: Tensor
    low: Tensor
    high: Tensor

    def __len__(self) -> int:
        return len(self.flat)

    @staticmethod
    def of(flat: Tensor) -> Blocks:
        """Sort (N, 4) float64 centre, width, height into blocks."""
        group, order = _by_size_and_place(flat)
        # Every group of sizes begins a block of its own: a block of two sizes at two ends of the image bounds nothing.
        _, group, count = group.unique_consecutive(return_inverse=True, return_counts=True)
        blocks = -(-count // _SIZE)
        rank = torch.arange(len(order), device=flat.device) - (count.cumsum(0) - count)[group]
        index = order.new_full((int(blocks.sum()) * _SIZE,), -1)
        index[(blocks.cumsum(0) - blocks)[group] * _SIZE + rank] = order
        index = index.view(-1, _SIZE)
        boxes = flat[torch.where(index < 0, index[:, :1], index)]
        return Blocks(flat, boxes, index, boxes.amin(dim=1), boxes.amax(dim=1))


def _spread(value: Tensor) -> Tensor:
    """Put a zero before each of the lower 16 bits, for a Morton code."""
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        value = (value | (value << shift)) & mask
    return value


def _by_size_and_place(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Sort boxes by size in octaves, then along a Z-curve through the centres; sorted sizes and the order."""
    if not len(flat):
        none = torch.zeros(0, dtype=torch.int64, device=flat.device)
        return none, none
    size = torch.log2(flat[:, 2:].clamp(min=1e-3)).floor().long()
    size = (size - size.amin(dim=0)).clamp(max=127)
    low = flat[:, :2].amin(dim=0)
    extent = (flat[:, :2].amax(dim=0) - low).amax().clamp(min=1e-9)
    place = ((flat[:, :2] - low) * (65535 / extent)).long()
    code = _spread(place[:, 0]) | _spread(place[:, 1]) << 1
    key, order = ((size[:, 0] << 39) | (size[:, 1] << 32) | code).sort()
    return key >> 32, order


def _upper(blocks: Blocks, gts: Tensor, score: Score) -> Tensor:
    """(G, B) what no box of a block can surpass."""
    assert score.upper is not None
    low, high = blocks.low.unbind(1), blocks.high.unbind(1)
    gx, gy, gw, gh = (column[:, None] for column in gts.unbind(1))
    dx = torch.maximum(low[0] - gx, gx - high[0]).clamp(min=0)
    dy = torch.maximum(low[1] - gy, gy - high[1]).clamp(min=0)
    return score.upper(dx, dy, low[2], high[2], low[3], high[3], gw, gh)


def _look_into(blocks: Blocks, gts: Tensor, score: Score, g: Tensor, b: Tensor, limit: Tensor) -> Iterator[Matches]:
    """All boxes of the given (ground truth, block) pairs that score at least ``limit`` (G,), part by part."""
    for part in chunks(len(g), _SIZE, DENSE_ELEMENTS):
        gt, block = g[part], b[part]
        value = _score_blocks(blocks, gts, score, gt, block)
        pair, slot = (value >= limit[gt, None]).nonzero(as_tuple=True)
        prior = blocks.index[block[pair], slot]
        found = Matches(gt[pair], prior, value[pair, slot])
        yield found.keep(prior >= 0)


def _score_blocks(blocks: Blocks, gts: Tensor, score: Score, g: Tensor, b: Tensor) -> Tensor:
    """(P, 64) scores of all boxes of the given (ground truth, block) pairs."""
    px, py, pw, ph = blocks.boxes[b].unbind(2)
    gx, gy, gw, gh = (column[:, None] for column in gts[g].unbind(1))
    return score(px - gx, py - gy, pw, ph, gw, gh)


def _search(blocks: Blocks, gts: Tensor, score: Score, limits: Callable[[Tensor, slice], Tensor]) -> Iterator[Matches]:
    """All pairs that score at least a limit; ``limits`` gets bounds (g, B) and which ground truths they are of."""
    for part in chunks(len(gts), len(blocks.boxes), DENSE_ELEMENTS):
        upper = _upper(blocks, gts[part], score)
        limit = limits(upper, part)
        g, b = (upper >= (limit - _SLACK * limit.abs())[:, None]).nonzero(as_tuple=True)
        for found in _look_into(blocks, gts[part], score, g, b, limit):
            yield Matches(found.gt + part.start, found.prior, found.score)


def topk_blocks(blocks: Blocks, gts: Tensor, score: Score, k: int, over: float = -math.inf) -> Matches:
    """For each ground truth, all boxes whose score is at least its k-th largest score (ties all win).

    Args:
        blocks: the priors.
        gts: (G, 4) float64, centre, width, height.
        score: with an upper bound.
        k: how many; at most N are taken.
        over: pairs that do not score more than this are left out.

    Returns:
        The pairs, in no particular order.
    """
    k = min(k, len(blocks))
    parts: list[Matches] = []
    for part in chunks(len(gts), 1, _GROUND_TRUTHS) if k > 0 else ():
        some = gts[part]
        found = Matches.cat(
            list(_search(blocks, some, score, _KthOfPromising(blocks, some, score, k, over))), gts.device
        )
        best = first_k(found, k)
        kth = -best_scores(Matches(best.gt, best.prior, -best.score), len(some))
        found = found.keep(found.score >= kth[found.gt])
        parts.append(Matches(found.gt + part.start, found.prior, found.score))
    return Matches.cat(parts, gts.device)


@dataclass(frozen=True)
class _KthOfPromising:
    """The k-th best score in the most promising blocks: the k-th best of all cannot be lower."""

    blocks: Blocks
    gts: Tensor
    score: Score
    k: int
    over: float

    def __call__(self, upper: Tensor, part: slice) -> Tensor:
        # A block holds at least one box, so k blocks hold k; more of them make the limit tighter.
        seeds = min(self.k + _MORE_SEEDS, len(self.blocks.boxes))
        promising = upper.topk(seeds, dim=1).indices
        parts = [upper.new_zeros(0)]
        for rows in chunks(len(promising), seeds * _SIZE, DENSE_ELEMENTS):
            b = promising[rows].flatten()
            g = torch.arange(part.start + rows.start, part.start + rows.stop, device=upper.device)
            value = _score_blocks(self.blocks, self.gts, self.score, g.repeat_interleave(seeds), b)
            value = value.masked_fill(self.blocks.index[b] < 0, -torch.inf).view(len(g), -1)
            parts.append(value.topk(self.k, dim=1).values[:, -1])
        return torch.cat(parts).clamp(min=math.nextafter(self.over, math.inf))


def above_blocks(blocks: Blocks, gts: Tensor, score: Score, threshold: float | Tensor) -> Iterator[Matches]:
    """All pairs of a ground truth and a box with a score of at least ``threshold``, one for all or (G,), in parts."""
    if len(blocks):
        limits = torch.as_tensor(threshold, dtype=gts.dtype, device=gts.device).expand(len(gts))
        yield from _search(blocks, gts, score, lambda upper, part: limits[part])
