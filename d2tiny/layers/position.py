"""Sine position embeddings of feature maps and of boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["PositionEmbeddingSine", "box_sine_embedding", "inverse_sigmoid"]


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Return the logit of x after clamping x to [eps, 1 - eps].

    For coordinates in shares of the image, ``eps`` is the smallest side that can be expressed: 0.008 px of 800 px here,
    0.8 px with the 1e-3 of other implementations.
    """
    x = x.clamp(min=eps, max=1 - eps)
    return torch.log(x / (1 - x))


def _sine_embedding(x: Tensor, num_feats: int, temperature: float) -> Tensor:
    """Map (...) to (..., num_feats): alternating sine and cosine, wavelengths from 2π to 2π · temperature."""
    step = torch.arange(num_feats // 2, dtype=torch.float32, device=x.device)
    phase = x[..., None] / temperature ** (2 * step / num_feats)
    return torch.stack((phase.sin(), phase.cos()), dim=-1).flatten(-2)


def box_sine_embedding(boxes: Tensor, num_pos_feats: int, temperature: float = 10000.0) -> Tensor:
    """Embed boxes, as the decoder of DAB-DETR and DINO does for its positional queries.

    Args:
        boxes: (..., 4) cx, cy, w, h in [0, 1].
        num_pos_feats: features of each coordinate.
        temperature: ratio of the longest to the shortest wavelength.

    Returns:
        (..., 4 · num_pos_feats) float32, the coordinates in the order cy, cx, w, h.
    """
    x, y, w, h = (_sine_embedding(part * 2 * math.pi, num_pos_feats, temperature) for part in boxes.float().unbind(-1))
    return torch.cat((y, x, w, h), dim=-1)


class PositionEmbeddingSine(nn.Module):
    """Sine embedding of the cells of a feature map (Carion et al., DETR, 2020).

    Rows and columns are counted without padding and scaled so that the image spans [0, 2π].
    """

    def __init__(self, num_pos_feats: int = 128, temperature: float = 20.0, offset: float = 0.0) -> None:
        """Set the size.

        Args:
            num_pos_feats: features of the row and of the column; together they are the embedding.
            temperature: ratio of the longest to the shortest wavelength; DINO takes 20, DETR 10000.
            offset: added to the number of a row or column, which begins at 1; the released DINO has 0, detrex's -0.5.
        """
        super().__init__()
        self.num_pos_feats, self.temperature, self.offset = num_pos_feats, temperature, offset

    def forward(self, padding_mask: Tensor) -> Tensor:
        """Embed the cells of feature maps.

        Args:
            padding_mask: (B, H, W) boolean, True for padding cells.

        Returns:
            (B, 2 · num_pos_feats, H, W) float32, rows first.
        """
        valid = (~padding_mask).float()
        parts = []
        for axis in (1, 2):
            coordinate = valid.cumsum(axis) + self.offset
            length = valid.sum(axis, keepdim=True).clamp(min=1)
            parts.append(_sine_embedding(coordinate / length * 2 * math.pi, self.num_pos_feats, self.temperature))
        return torch.cat(parts, dim=-1).permute(0, 3, 1, 2)
