"""Sine embeddings of places in a map, and of boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["MapPosition", "box_position", "inverse_sigmoid"]


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of x in [0, 1], clamped to [eps, 1 − eps] (of a box: so many shares of the image)."""
    x = x.clamp(min=eps, max=1 - eps)
    return torch.log(x / (1 - x))


def _waves(x: Tensor, features: int, temperature: float) -> Tensor:
    """(…) to (…, features): sine and cosine in turn, of wavelengths from 2π to 2π·temperature."""
    step = torch.arange(features // 2, dtype=torch.float32, device=x.device)
    phase = x[..., None] / temperature ** (2 * step / features)
    return torch.stack((phase.sin(), phase.cos()), dim=-1).flatten(-2)


def box_position(boxes: Tensor, features: int, temperature: float = 10000.0) -> Tensor:
    """(…, 4) cx, cy, w, h in [0, 1] to (…, 4·features), in the order y, x, w, h (DINO's decoder)."""
    x, y, w, h = (_waves(part * 2 * math.pi, features, temperature) for part in boxes.float().unbind(-1))
    return torch.cat((y, x, w, h), dim=-1)


class MapPosition(nn.Module):
    """(B, 2·features, H, W) of the rows' and columns' places in the image, 0 … 2π over what is not padding."""

    def __init__(self, features: int = 128, temperature: float = 20.0) -> None:
        super().__init__()
        self.features, self.temperature = features, temperature

    def forward(self, padding: Tensor) -> Tensor:
        """Embed the cells of maps.

        Args:
            padding: (B, H, W) boolean, cells that are none of the image.
        """
        inside = (~padding).float()
        parts = []
        for axis in (1, 2):
            place = inside.cumsum(axis) - 0.5
            length = inside.sum(axis, keepdim=True).clamp(min=1)
            parts.append(_waves(place / length * 2 * math.pi, self.features, self.temperature))
        return torch.cat(parts, dim=-1).permute(0, 3, 1, 2)
