"""Density maps: objects per cell of a feature map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from d2tiny.utils.precision import without_autocast

__all__ = ["count_objects", "covered_cells", "density_target", "local_maxima", "pool_density"]

_SIGMA = 0.25  # standard deviation of an object's Gaussian, in units of √(w·h)
# Its limits in cells. The upper one bounds the ratio of the peaks of small and large objects, 0.28 to 0.07 objects a
# cell, so that one threshold (that of counting) tells both from the background.
_MIN_SIGMA, _MAX_SIGMA = 0.75, 1.5


def density_target(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw a density map that sums to the number of objects.

    Each object is a Gaussian with σ = √(w·h) / 4, limited to [0.75, 1.5] cells, in a window of ± 3σ; it is normalised
    after the border of the map has cut it.

    Args:
        boxes: (G, 4) cx, cy, w, h in cells.
        size: (H, W) of the map.

    Returns:
        (H, W) float32, objects per cell.
    """
    height, width = size
    boxes = boxes.float()
    sigma = (_SIGMA * boxes[:, 2:].clamp(min=0).prod(dim=1).sqrt()).clamp(_MIN_SIGMA, _MAX_SIGMA)[:, None]

    def profile(centre: Tensor, cells: int) -> Tensor:
        centre = centre.clamp(0, cells)[:, None]
        distance = torch.arange(cells, device=boxes.device) + 0.5 - centre
        weight = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= 3 * sigma)
        return weight / weight.sum(dim=1, keepdim=True)

    # A Gaussian is the product of its profiles along both axes: one matrix product adds up all objects.
    with without_autocast(boxes.device):
        return profile(boxes[:, 1], height).T @ profile(boxes[:, 0], width)


def local_maxima(density: Tensor, threshold: float = 0.0) -> Tensor:
    """Return the density in cells that are the highest of their 3×3 neighbours and over the threshold, elsewhere 0.

    Of neighbours that are equal, the first is the maximum.

    Args:
        density: (B, H, W).
        threshold: objects per cell.

    Returns:
        (B, H·W).
    """
    height, width = density.shape[1:]
    padded = F.pad(density, (1, 1, 1, 1), value=-torch.inf)
    shifted = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    earlier, later = (torch.stack(part).amax(dim=0) for part in (shifted[:4], shifted[5:]))
    is_peak = (density > earlier) & (density >= later) & (density > threshold)
    return torch.where(is_peak, density, 0.0).flatten(1)


def count_objects(density: Tensor, threshold: float) -> Tensor:
    """Return the number of objects of each image, (B,) int64: that of the local maxima over the threshold.

    A sum over all cells adds up small values over a wide background, and loses what the head is not sure of.

    Args:
        density: (B, H, W), objects per cell.
        threshold: objects per cell.
    """
    return (local_maxima(density, threshold) > 0).sum(dim=1)


def pool_density(density: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the largest density within each cell of each level, L tensors (B, H_l, W_l).

    Args:
        density: (B, H, W), of the first, finest level.
        sizes: (H_l, W_l) of the levels; each halves the last, rounding up.
    """
    levels = []
    for level, size in enumerate(sizes):  # 200 cells become 13, each of 16
        step = [2**level] * 2
        missing = [max(0, cells * s - given) for cells, s, given in zip(size, step, density.shape[1:], strict=True)]
        padded = F.pad(density, (0, missing[1], 0, missing[0]))
        levels.append(F.max_pool2d(padded[:, None], step, stride=step)[:, 0, : size[0], : size[1]])
    return levels


def covered_cells(regions: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (H, W) boolean, True for cells whose centre is in one of the regions (R, 4) cx, cy, w, h in cells."""

    def covered(centre: Tensor, side: Tensor, cells: int) -> Tensor:
        cell = torch.arange(cells, device=regions.device) + 0.5
        return (cell - centre[:, None]).abs() <= side[:, None] / 2

    rows, columns = covered(regions[:, 1], regions[:, 3], size[0]), covered(regions[:, 0], regions[:, 2], size[1])
    # the outer products of all regions are one matrix product
    with without_autocast(regions.device):
        return rows.float().T @ columns.float() > 0
