"""Group normalisation that leaves the padding of a batch out of its statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d2tiny.utils.precision import without_autocast

__all__ = ["masked_norm"]


def masked_norm(norm: nn.Module, x: Tensor, valid_mask: Tensor | None) -> Tensor:
    """Apply a layer; a group normalisation takes mean and variance over the cells of the image alone.

    Args:
        norm: a ``GroupNorm`` with weight and bias; any other module is called as it is.
        x: (B, C, H, W), any finite values in the padding.
        valid_mask: (B, 1, H, W) boolean, False for padding cells; None without padding.

    Returns:
        (B, C, H, W) in the type of ``x``; the statistics are computed in float32.
    """
    if valid_mask is None or not isinstance(norm, nn.GroupNorm):
        out: Tensor = norm(x)
        return out
    batch, channels, height, width = x.shape
    group_channels = channels // norm.num_groups
    with without_autocast(x.device):
        groups = x.float().masked_fill(~valid_mask, 0.0).view(batch, norm.num_groups, -1)
        count = valid_mask.float().sum(dim=(2, 3)).clamp(min=1) * group_channels
        mean = groups.sum(dim=2) / count
        valid = valid_mask.float().expand(-1, group_channels, -1, -1).reshape(batch, 1, -1)
        var = ((groups - mean[..., None]) ** 2 * valid).sum(dim=2) / count
        out = (groups - mean[..., None]) * torch.rsqrt(var + norm.eps)[..., None]
        out = out.view(batch, channels, height, width) * norm.weight[:, None, None] + norm.bias[:, None, None]
    return out.to(x.dtype)
