"""Density maps: objects per cell of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from d2tiny.utils.precision import without_autocast

__all__ = ["covered_cells", "density_target", "local_maxima"]

_SIGMA = 0.25  # standard deviation of an object's Gaussian, in units of √(w·h)
_MIN_SIGMA, _MAX_SIGMA = 0.75, 8.0  # its limits in cells


def density_target(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw a density map that sums to the number of objects.

    Each object is a Gaussian with σ = √(w·h) / 4, limited to [0.75, 8] cells, in a window of ± 3σ; it is normalised
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


def local_maxima(density: Tensor) -> Tensor:
    """Return (B, H·W), the density (B, H, W) in cells that are the highest of their 3×3 neighbours, elsewhere 0."""
    highest = F.max_pool2d(density[:, None], 3, stride=1, padding=1)[:, 0]
    return torch.where((density == highest) & (density > 0), density, 0.0).flatten(1)


def covered_cells(regions: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (H, W) boolean, True for cells whose centre is in one of the regions (R, 4) cx, cy, w, h in cells."""

    def covered(centre: Tensor, side: Tensor, cells: int) -> Tensor:
        cell = torch.arange(cells, device=regions.device) + 0.5
        return (cell - centre[:, None]).abs() <= side[:, None] / 2

    rows, columns = covered(regions[:, 1], regions[:, 3], size[0]), covered(regions[:, 0], regions[:, 2], size[1])
    return (rows[:, :, None] & columns[:, None]).any(dim=0)
