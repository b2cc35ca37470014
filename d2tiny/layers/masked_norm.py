"""Normalisation over what is image, not over the padding that images of a batch get."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d2tiny.utils.precision import without_autocast

__all__ = ["masked_norm"]


def masked_norm(norm: nn.Module, x: Tensor, inside: Tensor | None) -> Tensor:
    """Normalise (B, C, H, W); the statistics of a group normalisation leave the padding out.

    Args:
        norm: a ``GroupNorm`` with weights; any other module is called as it is.
        x: (B, C, H, W), any finite values in the padding.
        inside: (B, 1, H, W) boolean, cells that are image; None where all are.
    """
    if inside is None or not isinstance(norm, nn.GroupNorm):
        out: Tensor = norm(x)
        return out
    batch, channels, height, width = x.shape
    each = channels // norm.num_groups
    with without_autocast(x.device):
        parts = x.float().masked_fill(~inside, 0.0).view(batch, norm.num_groups, -1)
        cells = inside.float().sum(dim=(2, 3)).clamp(min=1) * each
        mean = parts.sum(dim=2) / cells
        share = inside.float().expand(-1, each, -1, -1).reshape(batch, 1, -1)
        var = ((parts - mean[..., None]) ** 2 * share).sum(dim=2) / cells
        out = (parts - mean[..., None]) * torch.rsqrt(var + norm.eps)[..., None]
        out = out.view(batch, channels, height, width) * norm.weight[:, None, None] + norm.bias[:, None, None]
    return out.to(x.dtype)
