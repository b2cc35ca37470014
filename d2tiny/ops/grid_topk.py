"""Exact top-k search on regular grids of priors without a (ground truth × prior) matrix.

One cell anchor of one pyramid level, repeated in every cell, is a *grid* of equal boxes. A score that decreases with
|dx| and |dy| is highest at the nearest cell, and the k best cells of a grid lie within its k+1 nearest columns and
rows: a cell in a farther column has at least k cells in its own row that are no worse. The search therefore costs
O(G · M · k²), whatever the image size. Where equal scores extend beyond that window (plateaus of GIoU, rounding), the
exact extent is found by bisection along the row and the column of the nearest cell.

Symbols in shapes: G ground truths, M grids, N priors, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from d2tiny.ops.boxes import DENSE_ELEMENTS, chunks
from d2tiny.ops.gaussian import ScoreFn
from d2tiny.ops.matches import Matches

__all__ = ["PriorGrids", "above_grid", "topk_grid"]


@dataclass(frozen=True)
class PriorGrids:
    """M regular grids of equal boxes, one for each cell anchor of each level; all tensors are (M,).

    The prior at column ``ix`` and row ``iy`` of grid m has the centre ``(ix·stride + cx, iy·stride + cy)``, the
    size ``(w, h)`` and the flat index ``base + (iy·pitch + ix)·step``.

    Attributes:
        stride: float64 stride in px.
        columns: int64 number of columns.
        rows: int64 number of rows.
        cx: float64 x of the centre of the prior in cell (0, 0), in px.
        cy: float64 y of the centre of the prior in cell (0, 0), in px.
        w: float64 width of the priors in px.
        h: float64 height of the priors in px.
        base: int64 flat index of the prior in cell (0, 0).
        step: int64 distance of the flat indices of neighbouring cells, the number of cell anchors of the level.
        pitch: int64 number of cells from a row to the next, the columns of the feature map.
        level: int64 index of the feature level.
        num_priors: number of priors of all grids.
    """

    stride: Tensor
    columns: Tensor
    rows: Tensor
    cx: Tensor
    cy: Tensor
    w: Tensor
    h: Tensor
    base: Tensor
    step: Tensor
    pitch: Tensor
    level: Tensor
    num_priors: int

    def select_level(self, level: int) -> PriorGrids:
        """Return the grids of one feature level; prior indices still refer to all levels."""
        return self._select(self.level == level)

    def inside(self, height: int, width: int, margin: float) -> PriorGrids:
        """Return the parts of the grids whose priors lie inside an image; prior indices stay as they are.

        They are rectangles of cells, so that a search of them costs no more than one of all.

        Args:
            height: of the image in px.
            width: of the image in px.
            margin: px by which a prior may stick out.
        """
        x0, columns = _cells_inside(self.cx, self.w, self.stride, self.columns, width, margin)
        y0, rows = _cells_inside(self.cy, self.h, self.stride, self.rows, height, margin)
        cropped = replace(
            self,
            cx=self.cx + x0 * self.stride,
            cy=self.cy + y0 * self.stride,
            base=self.base + (y0 * self.pitch + x0) * self.step,
            columns=columns,
            rows=rows,
        )
        return cropped._select((columns > 0) & (rows > 0))

    def _select(self, keep: Tensor) -> PriorGrids:
        """Return the grids of an (M,) mask."""
        parts = {f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name != "num_priors"}
        return PriorGrids(**parts, num_priors=int((parts["columns"] * parts["rows"]).sum()))


def _cells_inside(
    centre: Tensor, side: Tensor, stride: Tensor, count: Tensor, length: int, margin: float
) -> tuple[Tensor, Tensor]:
    """Return the first cell inside the image along an axis and how many follow, both (M,) int64.

    Args:
        centre: (M,) of the prior in cell 0, px.
        side: (M,) of the priors, px.
        stride: (M,) px.
        count: (M,) number of cells.
        length: of the image, px.
        margin: px, see :meth:`PriorGrids.inside`.
    """
    first = torch.ceil((-margin - (centre - side / 2)) / stride).long().clamp(min=0)
    end = (
        torch.ceil((length + margin - (centre + side / 2)) / stride).long().minimum(count)
    )  # the first that sticks out
    return first, (end - first).clamp(min=0)


def _score_cells(
    grids: PriorGrids, gts: Tensor, score: ScoreFn, m: Tensor, g: Tensor, ix: Tensor, iy: Tensor
) -> Tensor:
    """Return the scores of cells (ix, iy) of grid m with ground truth g; all index tensors broadcast."""
    dx = ix * grids.stride[m] + grids.cx[m] - gts[g, 0]
    dy = iy * grids.stride[m] + grids.cy[m] - gts[g, 1]
    return score(dx, dy, grids.w[m], grids.h[m], gts[g, 2], gts[g, 3])


def _nearest(grids: PriorGrids, gts: Tensor, g: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Return column and row of the cell of grid m whose centre is nearest to ground truth g."""
    ix = torch.round((gts[g, 0] - grids.cx[m]) / grids.stride[m]).long()
    iy = torch.round((gts[g, 1] - grids.cy[m]) / grids.stride[m]).long()
    return ix.clamp(min=0).minimum(grids.columns[m] - 1), iy.clamp(min=0).minimum(grids.rows[m] - 1)


def _extents(grids: PriorGrids, gts: Tensor, score: ScoreFn, g: Tensor, m: Tensor, threshold: Tensor) -> Tensor:
    """Return how many cells left, right, up, down (4, P) of the nearest one reach ``threshold``, by bisection."""
    ix, iy = _nearest(grids, gts, g, m)
    low = torch.zeros(4, len(ix), dtype=torch.int64, device=ix.device)  # known to reach the threshold
    high = (
        torch.stack((ix, grids.columns[m] - 1 - ix, iy, grids.rows[m] - 1 - iy)) + 1
    )  # known not to reach it, or outside the grid
    sign_x = torch.tensor([[-1], [1], [0], [0]], device=ix.device)
    sign_y = torch.tensor([[0], [0], [-1], [1]], device=ix.device)
    for _ in range(int(high.max()).bit_length() if len(ix) else 0):
        middle = (low + high) // 2  # if low and high are neighbours, this is low, which is known
        reaches = _score_cells(grids, gts, score, m, g, ix + sign_x * middle, iy + sign_y * middle) >= threshold
        low = torch.where(reaches, middle, low)
        high = torch.where(reaches, high, middle.maximum(low + 1))
    return low


def _cells_above(
    grids: PriorGrids, gts: Tensor, score: ScoreFn, g: Tensor, m: Tensor, threshold: Tensor
) -> Iterator[Matches]:
    """Yield in chunks the cells of the given (ground truth, grid) pairs that score at least ``threshold``.

    The nearest cell of every pair must reach the threshold.
    """
    ix, iy = _nearest(grids, gts, g, m)
    left, right, up, down = _extents(grids, gts, score, g, m, threshold)
    width, height = left + right + 1, up + down + 1
    ends = (width * height).cumsum(0).tolist()
    start = 0
    while start < len(ends):  # chunks of pairs within the memory bound, at least one pair each
        done = ends[start - 1] if start else 0
        stop = start + 1
        while stop < len(ends) and ends[stop] - done <= DENSE_ELEMENTS:
            stop += 1
        count = (width * height)[start:stop]
        pair = torch.repeat_interleave(torch.arange(start, stop, device=g.device), count)
        cell = torch.arange(len(pair), device=g.device)
        cell = cell - torch.repeat_interleave(count.cumsum(0) - count, count)
        jx = ix[pair] - left[pair] + cell % width[pair]
        jy = iy[pair] - up[pair] + cell // width[pair]
        value = _score_cells(grids, gts, score, m[pair], g[pair], jx, jy)
        keep = value >= threshold[pair]
        grid = m[pair]
        prior = grids.base[grid] + (jy * grids.pitch[grid] + jx) * grids.step[grid]
        yield Matches(g[pair][keep], prior[keep], value[keep])
        start = stop


@dataclass(frozen=True)
class _Window:
    """Scores of the cells around g ground truths in each grid.

    Attributes:
        x0: (g, M) first column of the window.
        y0: (g, M) first row of the window.
        score: (g, M, side, side) scores by row and column, -inf outside the grid.
    """

    x0: Tensor
    y0: Tensor
    score: Tensor

    @property
    def side(self) -> int:
        return self.score.shape[-1]


def _score_window(grids: PriorGrids, gts: Tensor, score: ScoreFn, g: Tensor, side: int) -> _Window:
    """Score the ``side`` nearest columns and rows of each grid, or all of them if there are fewer; g is (g, 1)."""
    m, offset = torch.arange(len(grids.stride), device=gts.device), torch.arange(side, device=gts.device)
    column = (gts[g, 0] - grids.cx) / grids.stride
    row = (gts[g, 1] - grids.cy) / grids.stride
    x0 = torch.ceil(column - side / 2).long().clamp(min=0).minimum((grids.columns - side).clamp(min=0))
    y0 = torch.ceil(row - side / 2).long().clamp(min=0).minimum((grids.rows - side).clamp(min=0))
    ix = (x0[..., None] + offset)[:, :, None, :]
    iy = (y0[..., None] + offset)[:, :, :, None]
    m4 = m[None, :, None, None]
    value = _score_cells(grids, gts, score, m4, g[:, :, None, None], ix, iy)
    inside = (ix < grids.columns[m4]) & (iy < grids.rows[m4])
    return _Window(x0, y0, torch.where(inside, value, -torch.inf))


def _ties_outside(grids: PriorGrids, gts: Tensor, score: ScoreFn, g: Tensor, window: _Window, kth: Tensor) -> Tensor:
    """Return (g, M) whether a cell outside the window scores at least ``kth`` (g,).

    The best cells outside are next to the window, in the row or column nearest to the ground truth.
    """
    m = torch.arange(len(grids.stride), device=gts.device)[None]
    x0, y0, side = window.x0, window.y0, window.side
    nx, ny = _nearest(grids, gts, g, m)
    overflow = torch.zeros_like(nx, dtype=torch.bool)
    for jx, jy in ((x0 - 1, ny), (x0 + side, ny), (nx, y0 - 1), (nx, y0 + side)):
        exists = (jx >= 0) & (jx < grids.columns) & (jy >= 0) & (jy < grids.rows)
        overflow |= exists & (_score_cells(grids, gts, score, m, g, jx, jy) >= kth[:, None])
    return overflow


def topk_grid(grids: PriorGrids, gts: Tensor, score: ScoreFn, k: int, floor: float = -math.inf) -> Matches:
    """Return for each ground truth all priors that score at least its k-th largest score, including all ties.

    Args:
        grids: the priors.
        gts: (G, 4) float64 boxes as centre, width, height in px.
        score: a score that does not increase with |dx| or |dy|.
        k: number of priors per ground truth; at most N are used.
        floor: pairs must score more than this.

    Returns:
        The pairs, in no particular order.
    """
    num_grids = len(grids.stride)
    parts: list[Matches] = []
    if not num_grids or k < 1:
        return Matches.cat(parts, gts.device)
    side = min(k + 1, int(torch.maximum(grids.columns, grids.rows).max()))
    for part in chunks(len(gts), num_grids * side * side, DENSE_ELEMENTS):
        g = torch.arange(part.start, part.stop, device=gts.device)[:, None]
        window = _score_window(grids, gts, score, g, side)
        flat = window.score.flatten(1)
        kth = flat.topk(min(k, grids.num_priors, flat.shape[1]), dim=1).values[:, -1]
        kth = kth.clamp(min=math.nextafter(floor, math.inf))
        overflow = _ties_outside(grids, gts, score, g, window, kth)

        hit = (window.score >= kth[:, None, None, None]) & ~overflow[..., None, None]
        gi, mi, yi, xi = hit.nonzero(as_tuple=True)
        px, py = window.x0[gi, mi] + xi, window.y0[gi, mi] + yi
        prior = grids.base[mi] + (py * grids.pitch[mi] + px) * grids.step[mi]
        parts.append(Matches(gi + part.start, prior, window.score[gi, mi, yi, xi]))
        if bool(overflow.any()):
            go, mo = overflow.nonzero(as_tuple=True)
            parts += _cells_above(grids, gts, score, go + part.start, mo, kth[go])
    return Matches.cat(parts, gts.device)


def above_grid(grids: PriorGrids, gts: Tensor, score: ScoreFn, threshold: float | Tensor) -> Iterator[Matches]:
    """Yield in chunks all pairs of a ground truth and a prior that score at least ``threshold``.

    Args:
        grids: the priors.
        gts: (G, 4) float64 boxes as centre, width, height in px.
        score: a score that does not increase with |dx| or |dy|.
        threshold: a number, or (G,) one for each ground truth.
    """
    num_grids = len(grids.stride)
    all_m = torch.arange(num_grids, device=gts.device)[None]
    limits = torch.as_tensor(threshold, dtype=gts.dtype, device=gts.device).expand(len(gts))
    for part in chunks(len(gts), max(num_grids, 1), DENSE_ELEMENTS):
        g = torch.arange(part.start, part.stop, device=gts.device)[:, None]
        ix, iy = _nearest(grids, gts, g, all_m)
        reached = _score_cells(grids, gts, score, all_m, g, ix, iy) >= limits[g]
        gi, mi = reached.nonzero(as_tuple=True)
        gi = gi + part.start
        yield from _cells_above(grids, gts, score, gi, mi, limits[gi])
