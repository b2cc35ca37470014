"""The best priors of a ground truth on regular lattices, without a (ground truth × prior) matrix.

Every *family* of priors (one cell anchor of one level) is a lattice of equal boxes. A score that falls when |dx| or
|dy| grows is highest at the nearest cell, and the k best cells of a family lie among its k+1 nearest columns and
rows: a cell in a farther column has at least k cells in its own row that are no worse. So the search costs
O(G · families · k²) however large the image is. Where equal scores reach past that window (plateaus of GIoU,
rounding), the exact extent is found by bisection along the row and the column of the nearest cell.

Letters: G ground truths, M families, N priors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from d2tiny.ops.boxes import DENSE_ELEMENTS, chunks
from d2tiny.ops.gaussian import ScoreFn
from d2tiny.ops.matches import Matches

__all__ = ["Lattices", "above_grid", "topk_grid"]


@dataclass(frozen=True)
class Lattices:
    """M families of equal boxes on regular grids; all tensors are (M,).

    The prior at column ``ix`` and row ``iy`` of family m has the centre ``(ix·stride + cx, iy·stride + cy)``, the
    size ``(w, h)`` and the flat index ``base + (iy·columns + ix)·step``.
    """

    stride: Tensor  # float64, px
    columns: Tensor  # int64
    rows: Tensor  # int64
    cx: Tensor  # float64, centre of the prior of cell (0, 0), px
    cy: Tensor
    w: Tensor  # float64, px
    h: Tensor
    base: Tensor  # int64
    step: Tensor  # int64
    level: Tensor  # int64, index of the feature map
    num_priors: int

    def of_level(self, level: int) -> Lattices:
        """Return the families of one feature map; flat indices stay those of all priors."""
        keep = self.level == level
        parts = {f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name != "num_priors"}
        return Lattices(**parts, num_priors=int((parts["columns"] * parts["rows"]).sum()))


def _score_cells(lat: Lattices, gts: Tensor, score: ScoreFn, m: Tensor, g: Tensor, ix: Tensor, iy: Tensor) -> Tensor:
    """Score of cells (ix, iy) of family m with ground truth g; all index tensors broadcast."""
    dx = ix * lat.stride[m] + lat.cx[m] - gts[g, 0]
    dy = iy * lat.stride[m] + lat.cy[m] - gts[g, 1]
    return score(dx, dy, lat.w[m], lat.h[m], gts[g, 2], gts[g, 3])


def _nearest(lat: Lattices, gts: Tensor, g: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row of the cell of family m whose centre is nearest to ground truth g."""
    ix = torch.round((gts[g, 0] - lat.cx[m]) / lat.stride[m]).long()
    iy = torch.round((gts[g, 1] - lat.cy[m]) / lat.stride[m]).long()
    return ix.clamp(min=0).minimum(lat.columns[m] - 1), iy.clamp(min=0).minimum(lat.rows[m] - 1)


def _extents(lat: Lattices, gts: Tensor, score: ScoreFn, g: Tensor, m: Tensor, threshold: Tensor) -> Tensor:
    """How many cells left, right, up and down (4, P) of the nearest one still reach ``threshold``, by bisection."""
    ix, iy = _nearest(lat, gts, g, m)
    low = torch.zeros(4, len(ix), dtype=torch.int64, device=ix.device)  # known to reach it
    high = torch.stack((ix, lat.columns[m] - 1 - ix, iy, lat.rows[m] - 1 - iy)) + 1  # known not to (or outside)
    sign_x = torch.tensor([[-1], [1], [0], [0]], device=ix.device)
    sign_y = torch.tensor([[0], [0], [-1], [1]], device=ix.device)
    for _ in range(int(high.max()).bit_length() if len(ix) else 0):
        middle = (low + high) // 2  # where both are neighbours it is the lower one, which is known
        reaches = _score_cells(lat, gts, score, m, g, ix + sign_x * middle, iy + sign_y * middle) >= threshold
        low = torch.where(reaches, middle, low)
        high = torch.where(reaches, high, middle.maximum(low + 1))
    return low


def _region(lat: Lattices, gts: Tensor, score: ScoreFn, g: Tensor, m: Tensor, threshold: Tensor) -> Iterator[Matches]:
    """All cells of the given (ground truth, family) pairs with a score of at least ``threshold``, part by part.

    The nearest cell of every pair must reach the threshold.
    """
    ix, iy = _nearest(lat, gts, g, m)
    left, right, up, down = _extents(lat, gts, score, g, m, threshold)
    width, height = left + right + 1, up + down + 1
    ends = (width * height).cumsum(0).tolist()
    start = 0
    while start < len(ends):  # groups of pairs that stay under the memory bound, at least one pair each
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
        value = _score_cells(lat, gts, score, m[pair], g[pair], jx, jy)
        keep = value >= threshold[pair]
        family = m[pair]
        prior = lat.base[family] + (jy * lat.columns[family] + jx) * lat.step[family]
        yield Matches(g[pair][keep], prior[keep], value[keep])
        start = stop


def topk_grid(lat: Lattices, gts: Tensor, score: ScoreFn, k: int, over: float = -math.inf) -> Matches:
    """For each ground truth, all priors whose score is at least its k-th largest score (ties all win).

    Args:
        lat: the priors.
        gts: (G, 4) float64, centre, width, height.
        score: falls or stays when |dx| or |dy| grows.
        k: how many; at most N are taken.
        over: pairs that do not score more than this are left out.

    Returns:
        The pairs, in no particular order.
    """
    families = len(lat.stride)
    parts: list[Matches] = []
    if not families or k < 1:
        return Matches.cat(parts, gts.device)
    side = min(k + 1, int(torch.maximum(lat.columns, lat.rows).max()))
    all_m = torch.arange(families, device=gts.device)
    offset = torch.arange(side, device=gts.device)
    for part in chunks(len(gts), families * side * side, DENSE_ELEMENTS):
        g = torch.arange(part.start, part.stop, device=gts.device)[:, None]
        column = (gts[g, 0] - lat.cx) / lat.stride
        row = (gts[g, 1] - lat.cy) / lat.stride
        # The window holds the k+1 nearest columns (rows), or all of them where there are fewer.
        x0 = torch.ceil(column - side / 2).long().clamp(min=0).minimum((lat.columns - side).clamp(min=0))
        y0 = torch.ceil(row - side / 2).long().clamp(min=0).minimum((lat.rows - side).clamp(min=0))
        ix = (x0[..., None] + offset)[:, :, None, :]
        iy = (y0[..., None] + offset)[:, :, :, None]
        m4, g4 = all_m[None, :, None, None], g[:, :, None, None]
        value = _score_cells(lat, gts, score, m4, g4, ix, iy)  # (g, M, side, side)
        inside = (ix < lat.columns[m4]) & (iy < lat.rows[m4])
        value = torch.where(inside, value, -torch.inf)
        flat = value.flatten(1)
        kth = flat.topk(min(k, lat.num_priors, flat.shape[1]), dim=1).values[:, -1]
        kth = kth.clamp(min=math.nextafter(over, math.inf))

        hit = value >= kth[:, None, None, None]
        hit &= inside
        # Do equal scores go on outside the window? The best cells there lie beside it, at the nearest row / column.
        nx, ny = _nearest(lat, gts, g, all_m[None])
        overflow = torch.zeros_like(nx, dtype=torch.bool)
        for jx, jy in ((x0 - 1, ny), (x0 + side, ny), (nx, y0 - 1), (nx, y0 + side)):
            exists = (jx >= 0) & (jx < lat.columns) & (jy >= 0) & (jy < lat.rows)
            outside = _score_cells(lat, gts, score, all_m[None], g, jx, jy)
            overflow |= exists & (outside >= kth[:, None])
        hit &= ~overflow[..., None, None]

        gi, mi, yi, xi = hit.nonzero(as_tuple=True)
        px, py = x0[gi, mi] + xi, y0[gi, mi] + yi
        prior = lat.base[mi] + (py * lat.columns[mi] + px) * lat.step[mi]
        parts.append(Matches(gi + part.start, prior, value[gi, mi, yi, xi]))
        if bool(overflow.any()):
            go, mo = overflow.nonzero(as_tuple=True)
            parts += _region(lat, gts, score, go + part.start, mo, kth[go])
    return Matches.cat(parts, gts.device)


def above_grid(lat: Lattices, gts: Tensor, score: ScoreFn, threshold: float | Tensor) -> Iterator[Matches]:
    """All pairs of a ground truth and a prior with a score of at least ``threshold``, one for all or (G,), in parts."""
    families = len(lat.stride)
    all_m = torch.arange(families, device=gts.device)[None]
    limits = torch.as_tensor(threshold, dtype=gts.dtype, device=gts.device).expand(len(gts))
    for part in chunks(len(gts), max(families, 1), DENSE_ELEMENTS):
        g = torch.arange(part.start, part.stop, device=gts.device)[:, None]
        ix, iy = _nearest(lat, gts, g, all_m)
        reached = _score_cells(lat, gts, score, all_m, g, ix, iy) >= limits[g]
        gi, mi = reached.nonzero(as_tuple=True)
        gi = gi + part.start
        yield from _region(lat, gts, score, gi, mi, limits[gi])
