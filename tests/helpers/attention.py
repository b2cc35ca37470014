"""Inputs of deformable attention."""

from __future__ import annotations

import torch

SHAPES = [(5, 6), (3, 2), (1, 1)]


def case(dtype=torch.float64, batch=2, queries=7, heads=3, depth=4, points=2, spatial_shapes=SHAPES, spread=1.3):
    """Return random values, level sizes, sampling locations and weights; some locations lie outside the maps."""
    generator = torch.Generator().manual_seed(0)
    cells, levels = sum(h * w for h, w in spatial_shapes), len(spatial_shapes)
    value = torch.randn(batch, cells, heads, depth, generator=generator, dtype=dtype)
    locations = torch.rand(batch, queries, heads, levels, points, 2, generator=generator, dtype=dtype) * spread
    locations = locations - (spread - 1) / 2  # some outside
    weights = torch.rand(batch, queries, heads, levels, points, generator=generator, dtype=dtype)
    return value, spatial_shapes, locations, weights
