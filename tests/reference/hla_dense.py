"""Hierarchical label assignment by its definition, with full (ground truth × prior) matrices in float32 torch.

Published code computes it this way; `benchmarks/assigners.py` measures it.
"""

from __future__ import annotations

import torch


def kld_matrix(gts, priors):
    """(G, N) scores 1 / (1 + KL) of XYXY boxes."""

    def split(boxes):
        return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2] + 1e-6

    (gc, gs), (pc, ps) = split(gts), split(priors)
    delta = (pc[None] - gc[:, None]) ** 2
    ratio = (ps[None] / gs[:, None]) ** 2
    kld = 0.5 * (ratio + 4 * delta / gs[:, None] ** 2 - torch.log(ratio) - 1).sum(-1)
    return 1 / (1 + kld)


def stage(scores, k):
    """0 background, -1 well fitting, else 1-based ground truth; later ones overwrite, values that tie all win."""
    out = torch.full((scores.shape[1],), -1, dtype=torch.int64)
    out[scores.amax(dim=0) < 0.8] = 0
    top = scores.topk(min(k, scores.shape[1]), dim=1).values
    for g in range(len(scores)):
        for value in top[g]:
            out[scores[g] == value] = g + 1
    return out


def assign(priors, gts, topk=(3, 1), ratio=0.9):
    """1-based ground truth, 0 for background, -1 for ignored."""
    centre, half = (priors[:, :2] + priors[:, 2:]) / 2, (priors[:, 2:] - priors[:, :2]) / 2 * ratio
    first = stage(kld_matrix(gts, priors), topk[0])
    second = stage(kld_matrix(gts, torch.cat((centre - half, centre + half), dim=1)), topk[1])
    return torch.where(first > 0, first, second)
