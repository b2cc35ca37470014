"""Priors and objects for assigners, and their results as plain numbers."""

from __future__ import annotations

import numpy as np
import torch

from d2tiny.modeling.priors import GridLevel, GridPriors, RFAnchorGenerator, grid_from_generator


def boxes(rows):
    """Return XYXY float32 boxes (N, 4) from rows of centre x, centre y, width, height."""
    rows = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    return torch.cat((rows[:, :2] - rows[:, 2:] / 2, rows[:, :2] + rows[:, 2:] / 2), 1).float()


# The worked example of docs/papers/rfla.md: 64 anchors of side 22.5 on an 8×8 grid of stride 4, and 16 of side 45.5
# on a 4×4 grid of stride 8.
A64 = boxes([[4 * (i % 8), 4 * (i // 8), 22.5, 22.5] for i in range(64)])
A80 = torch.cat((A64, boxes([[8 * (j % 4), 8 * (j // 4), 45.5, 45.5] for j in range(16)])))


def positives(result):
    """Return the positive priors: index of the prior -> 1-based number of its object."""
    index = (result.labels == 1).nonzero().flatten().tolist()
    return {i: int(result.matched_idxs[i]) + 1 for i in index}


def ignored(result):
    """Return the indices of the priors that are ignored."""
    return (result.labels == -1).nonzero().flatten().tolist()


def as_numbers(result):
    """Return what tests/reference returns: 1-based object, 0 background or -1 ignored for each prior."""
    return torch.where(result.labels == 1, result.matched_idxs + 1, result.labels.long()).tolist()


def pyramid(size, strides=(4, 8, 16, 32, 64), ratios=(0.5, 1.0, 2.0)):
    """Return receptive-field anchors for an image of ``size`` (height, width)."""
    generator = RFAnchorGenerator(strides=list(strides), aspect_ratios=list(ratios))
    height, width = size
    maps = [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in strides]
    return grid_from_generator(generator, maps)


def points(size=128, strides=(8, 16, 32)):
    """Return the locations of FCOS as squares: as wide as the stride, offset by half a stride."""
    cell = [torch.tensor([[-s / 2, -s / 2, s / 2, s / 2]]) for s in strides]
    return GridPriors([GridLevel(s, size // s, size // s, c, 0.5) for s, c in zip(strides, cell, strict=True)])


def random_gts(rng, count, size):
    """Draw objects from 2 px to the size of the image: extreme shapes, duplicates, integer positions that tie."""
    height, width = size
    kind = rng.integers(0, 4)
    if kind == 0:  # exact ties: even integers on the lattice
        centre = rng.integers(0, max(width // 4, 1), (count, 2)) * 4.0 + 2
        side = rng.integers(1, 8, (count, 2)) * 4.0
    else:
        centre = rng.uniform(-8, 1, (count, 2)) * 0 + rng.uniform(0, 1, (count, 2)) * (width, height)
        side = np.exp(rng.uniform(np.log(2), np.log(max(size)), (count, 2)))
        if kind == 1:
            side = rng.uniform(2, 32, (count, 2))
    rows = np.concatenate((centre, side), 1)
    if count > 2:
        rows[1] = rows[0]  # a duplicate
    return boxes(rows.tolist())
