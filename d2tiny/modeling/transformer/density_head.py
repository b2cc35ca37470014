"""Density of objects, predicted from all levels of a pyramid for the cells of the finest one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import DilatedDepthwise
from d2tiny.layers.masked_norm import masked_norm
from d2tiny.utils.precision import without_autocast

__all__ = ["DensityHead", "density_loss"]

# Logit of the density at first: 6·10⁻⁶ objects a cell, a quarter of an object in 800² px at stride 4.
_FIRST_LOGIT = -12.0
_MIN_DENSITY = 1e-30  # so that a density near 0 still has a gradient


class DensityHead(nn.Module):
    """Adds the levels from the coarsest to the finest, as an FPN does; dilated blocks and a softplus follow."""

    def __init__(self, *, embed_dim: int = 256, hidden_dim: int = 128, num_levels: int = 4, norm: str = "GN") -> None:
        """Build the layers.

        Args:
            embed_dim: C, channels of the levels.
            hidden_dim: channels of the head.
            num_levels: L, number of levels that are read, the finest ones.
            norm: normalisation in the blocks.

        Raises:
            ValueError: no level.
        """
        super().__init__()
        if num_levels < 1:
            raise ValueError(f"DensityHead: num_levels={num_levels} must be at least 1.")
        self.lateral = nn.ModuleList(nn.Conv2d(embed_dim, hidden_dim, 1) for _ in range(num_levels))
        blocks: list[nn.Module] = []
        for _ in range(3):
            blocks += [
                DilatedDepthwise(hidden_dim, 3, 2, bias=False),
                nn.Conv2d(hidden_dim, hidden_dim, 1, bias=False),
                get_norm(norm, hidden_dim),
                nn.ReLU(inplace=True),
            ]
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.Conv2d(hidden_dim, 1, 1)
        assert self.last.bias is not None
        nn.init.constant_(self.last.bias, _FIRST_LOGIT)
        nn.init.zeros_(self.last.weight)

    def forward(self, levels: Sequence[Tensor], padding: Sequence[Tensor] | None) -> Tensor:
        """Predict.

        Args:
            levels: the pyramid (B, C, H_l, W_l), finest first.
            padding: their padding (B, 1, H_l, W_l), boolean; None without padding. It influences no other cell.

        Returns:
            (B, H, W) float32, objects per cell of the finest level; 0 in the padding.
        """
        x: Tensor | None = None
        for i in reversed(range(min(len(self.lateral), len(levels)))):
            own = self.lateral[i](levels[i] if padding is None else levels[i].masked_fill(padding[i], 0.0))
            if x is not None:
                own = own + F.interpolate(x, size=own.shape[-2:], mode="nearest")
            x = own if padding is None else own.masked_fill(padding[i], 0.0)
        assert x is not None
        outside = None if padding is None else padding[0]
        for layer in self.blocks:
            x = masked_norm(layer, x, None if outside is None else ~outside)
            x = x if outside is None else x.masked_fill(outside, 0.0)
        with without_autocast(x.device):  # rounded densities would tie
            density = F.softplus(self.last(x.float()))
            return (density if outside is None else density.masked_fill(outside, 0.0))[:, 0]


def density_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the generalised Kullback-Leibler divergence ``Σ D ln(D / D̂) − D + D̂`` per object, at least 0.

    It is the log-likelihood of objects that are placed independently with the density D̂. Its gradient on a cell's logit
    is about D̂ − D, however small D̂ is, so that the head may start with an empty image; that of a squared error
    vanishes with D̂.

    Args:
        predicted: D̂, any shape.
        target: D, of the same shape; its sum is the number of objects.

    Returns:
        A scalar; the sum is divided by the number of objects, at least 1.
    """
    ratio = torch.log(target.clamp(min=_MIN_DENSITY)) - torch.log(predicted.clamp(min=_MIN_DENSITY))
    return (target * ratio - target + predicted).sum() / target.sum().clamp(min=1.0)
