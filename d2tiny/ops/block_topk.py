"""Exact top-k search among arbitrary boxes without a (ground truth × prior) matrix.

Boxes of similar position and size are grouped into blocks of 64. An upper bound of the score of all boxes of a block
follows from the range of their centres and sizes (branch and bound): a block whose bound is below the scores of boxes
found elsewhere is skipped. For scattered objects a few of hundreds of blocks remain.

Symbols in shapes: G ground truths, N priors, B blocks, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from d2tiny.ops.boxes import DENSE_ELEMENTS, chunks
from d2tiny.ops.gaussian import Score
from d2tiny.ops.matches import Matches, keep_topk, max_score_per_gt

__all__ = ["Blocks", "above_blocks", "block_bounds", "topk_blocks"]

_BLOCK_SIZE = 64
_EXTRA_BLOCKS = 3
# Ground truths searched at a time, so that memory does not grow with their number.
_GT_CHUNK = 1024
# Relative tolerance: a bound and a score round differently, and no block may be skipped because of it.
_SLACK = 1e-9


@dataclass(frozen=True)
class Blocks:
    """N boxes grouped into B blocks.

    Attributes:
        flat: (N, 4) float64 boxes as centre, width, height, in input order.
        boxes: (B, 64, 4) the same boxes by block; incomplete blocks are padded with copies of their first box.
        index: (B, 64) int64 index of each box in ``flat``, -1 for padding.
        low: (B, 4) minimum of centre, width and height over each block.
        high: (B, 4) maximum of centre, width and height over each block.
    """

    flat: Tensor
    boxes: Tensor
    index: Tensor
    low: Tensor
    high: Tensor

    def __len__(self) -> int:
        return len(self.flat)

    @staticmethod
    def from_boxes(flat: Tensor) -> Blocks:
        """Group (N, 4) float64 boxes (centre, width, height) into blocks."""
        group, order = _sort_by_size_and_position(flat)
        # Each group of sizes starts a new block: a block of different sizes would have a useless bound.
        _, group, count = group.unique_consecutive(return_inverse=True, return_counts=True)
        blocks = -(-count // _BLOCK_SIZE)
        rank = torch.arange(len(order), device=flat.device) - (count.cumsum(0) - count)[group]
        index = order.new_full((int(blocks.sum()) * _BLOCK_SIZE,), -1)
        index[(blocks.cumsum(0) - blocks)[group] * _BLOCK_SIZE + rank] = order
        index = index.view(-1, _BLOCK_SIZE)
        boxes = flat[torch.where(index < 0, index[:, :1], index)]
        return Blocks(flat, boxes, index, boxes.amin(dim=1), boxes.amax(dim=1))


def _spread_bits(value: Tensor) -> Tensor:
    """Insert a zero before each of the lower 16 bits, for a Morton code."""
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        value = (value | (value << shift)) & mask
    return value


def _sort_by_size_and_position(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Sort boxes by power-of-two size, then along a Z-order curve; return the sorted size keys and the order."""
    if not len(flat):
        empty = torch.zeros(0, dtype=torch.int64, device=flat.device)
        return empty, empty
    size = torch.log2(flat[:, 2:].clamp(min=1e-3)).floor().long()
    size = (size - size.amin(dim=0)).clamp(max=127)
    low = flat[:, :2].amin(dim=0)
    extent = (flat[:, :2].amax(dim=0) - low).amax().clamp(min=1e-9)
    position = ((flat[:, :2] - low) * (65535 / extent)).long()
    code = _spread_bits(position[:, 0]) | _spread_bits(position[:, 1]) << 1
    key, order = ((size[:, 0] << 39) | (size[:, 1] << 32) | code).sort()
    return key >> 32, order


def block_bounds(blocks: Blocks, gts: Tensor, score: Score) -> Tensor:
    """Return the (G, B) upper bounds of the scores of all boxes of each block."""
    assert score.upper_bound is not None
    low, high = blocks.low.unbind(1), blocks.high.unbind(1)
    gx, gy, gw, gh = (column[:, None] for column in gts.unbind(1))
    dx = torch.maximum(low[0] - gx, gx - high[0]).clamp(min=0)
    dy = torch.maximum(low[1] - gy, gy - high[1]).clamp(min=0)
    return score.upper_bound(dx, dy, low[2], high[2], low[3], high[3], gw, gh)


def _search_blocks(blocks: Blocks, gts: Tensor, score: Score, g: Tensor, b: Tensor, limit: Tensor) -> Iterator[Matches]:
    """Yield, in chunks, the boxes of (ground truth, block) pairs whose score is at least ``limit`` (G,)."""
    for part in chunks(len(g), _BLOCK_SIZE, DENSE_ELEMENTS):
        gt, block = g[part], b[part]
        value = _score_blocks(blocks, gts, score, gt, block)
        pair, slot = (value >= limit[gt, None]).nonzero(as_tuple=True)
        prior = blocks.index[block[pair], slot]
        matches = Matches(gt[pair], prior, value[pair, slot])
        yield matches.keep(prior >= 0)


def _score_blocks(blocks: Blocks, gts: Tensor, score: Score, g: Tensor, b: Tensor) -> Tensor:
    """Return the (P, 64) scores of all boxes of the given (ground truth, block) pairs."""
    px, py, pw, ph = blocks.boxes[b].unbind(2)
    gx, gy, gw, gh = (column[:, None] for column in gts[g].unbind(1))
    return score(px - gx, py - gy, pw, ph, gw, gh)


def _search(blocks: Blocks, gts: Tensor, score: Score, limits: Callable[[Tensor, slice], Tensor]) -> Iterator[Matches]:
    """Yield all pairs that score at least ``limits``, a function of (g, B) bounds and their slice of the G rows."""
    for part in chunks(len(gts), len(blocks.boxes), DENSE_ELEMENTS):
        upper = block_bounds(blocks, gts[part], score)
        limit = limits(upper, part)
        g, b = (upper >= (limit - _SLACK * limit.abs())[:, None]).nonzero(as_tuple=True)
        for matches in _search_blocks(blocks, gts[part], score, g, b, limit):
            yield Matches(matches.gt + part.start, matches.prior, matches.score)


def topk_blocks(blocks: Blocks, gts: Tensor, score: Score, k: int, floor: float = -math.inf) -> Matches:
    """Return for each ground truth all boxes that score at least its k-th largest score, including all ties.

    Args:
        blocks: the priors.
        gts: (G, 4) float64 boxes as centre, width, height in px.
        score: a score with an upper bound.
        k: number of boxes per ground truth; at most N are used.
        floor: pairs must score more than this.

    Returns:
        The pairs, in no particular order.
    """
    k = min(k, len(blocks))
    parts: list[Matches] = []
    for part in chunks(len(gts), 1, _GT_CHUNK) if k > 0 else ():
        subset = gts[part]
        matches = Matches.cat(
            list(_search(blocks, subset, score, _KthScoreLimit(blocks, subset, score, k, floor))), gts.device
        )
        best = keep_topk(matches, k)
        kth = -max_score_per_gt(Matches(best.gt, best.prior, -best.score), len(subset))
        matches = matches.keep(matches.score >= kth[matches.gt])
        parts.append(Matches(matches.gt + part.start, matches.prior, matches.score))
    return Matches.cat(parts, gts.device)


@dataclass(frozen=True)
class _KthScoreLimit:
    """The k-th best score within the blocks of the highest bounds, a lower bound of the k-th best score of all."""

    blocks: Blocks
    gts: Tensor
    score: Score
    k: int
    floor: float

    def __call__(self, upper: Tensor, part: slice) -> Tensor:
        # k blocks hold at least k boxes; a few more make the limit tighter.
        num_blocks = min(self.k + _EXTRA_BLOCKS, len(self.blocks.boxes))
        promising = upper.topk(num_blocks, dim=1).indices
        parts = [upper.new_zeros(0)]
        for rows in chunks(len(promising), num_blocks * _BLOCK_SIZE, DENSE_ELEMENTS):
            b = promising[rows].flatten()
            g = torch.arange(part.start + rows.start, part.start + rows.stop, device=upper.device)
            value = _score_blocks(self.blocks, self.gts, self.score, g.repeat_interleave(num_blocks), b)
            value = value.masked_fill(self.blocks.index[b] < 0, -torch.inf).view(len(g), -1)
            parts.append(value.topk(self.k, dim=1).values[:, -1])
        return torch.cat(parts).clamp(min=math.nextafter(self.floor, math.inf))


def above_blocks(blocks: Blocks, gts: Tensor, score: Score, threshold: float | Tensor) -> Iterator[Matches]:
    """Yield in chunks all pairs of a ground truth and a box that score at least ``threshold``.

    Args:
        blocks: the priors.
        gts: (G, 4) float64 boxes as centre, width, height in px.
        score: a score with an upper bound.
        threshold: a number, or (G,) one for each ground truth.
    """
    if len(blocks):
        limits = torch.as_tensor(threshold, dtype=gts.dtype, device=gts.device).expand(len(gts))
        yield from _search(blocks, gts, score, lambda upper, part: limits[part])
