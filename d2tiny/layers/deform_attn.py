"""Multi-scale deformable attention (Zhu et al., Deformable DETR, 2021).

Letters in shapes: B images, S tokens (the cells of all levels), Q queries, M heads, D channels of a head, L levels,
P sampling points of a head and level.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from d2tiny.layers.deform_attn_functions import (
    SpatialShapes,
    fused_deform_attn,
    ms_deform_attn,
    reference_deform_attn,
    sample_then_project,
    sampling_first_pays,
)

__all__ = ["MSDeformAttn", "fused_deform_attn", "ms_deform_attn", "reference_deform_attn", "sample_then_project"]


class MSDeformAttn(nn.Module):
    """Attention of each query to P sampling points per head and level around its reference point or box.

    Eq. 3 of the paper: ``out = W_o · concat_m Σ_l Σ_p A_mlp · (W_v x)_lm(ref + Δ_mlp)``. The attention weights A are a
    softmax over the L·P points of a head. The offset Δ is measured in cells of its level around a reference point, and
    in 1/P of half the box's sides around a reference box.

    Differences from the paper: none known.
    """

    def __init__(self, *, embed_dim: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4) -> None:
        """Build the projections.

        Args:
            embed_dim: C = M·D.
            num_heads: M.
            num_levels: L.
            num_points: P.

        Raises:
            ValueError: ``num_heads`` does not divide ``embed_dim``, or there are no levels or points.
        """
        super().__init__()
        if embed_dim % num_heads or num_levels < 1 or num_points < 1:
            raise ValueError(
                "MSDeformAttn: num_heads must divide embed_dim, num_levels and num_points must be at least 1; got "
                f"embed_dim={embed_dim}, num_heads={num_heads}, num_levels={num_levels}, num_points={num_points}."
            )
        self.embed_dim, self.num_heads, self.num_levels, self.num_points = embed_dim, num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(embed_dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(embed_dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as in the paper: head m samples in the m-th direction, point p at p + 1 cells, equal weights."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1.0)
        with torch.no_grad():
            grid = direction[:, None, None] * steps[None, None, :, None]
            self.sampling_offsets.bias.copy_(grid.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: SpatialShapes,
        key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C), with the position embedding added.
            reference_points: (B, Q, L, 2) points x, y or (B, Q, L, 4) boxes cx, cy, w, h, in [0, 1] of the padded maps.
            value: (B, S, C).
            spatial_shapes: (H, W) of the levels.
            key_padding_mask: (B, S) boolean, True for padding tokens, whose values count as zero.

        Returns:
            (B, Q, C).
        """
        offsets, logits = self.sampling_offsets(query), self.attention_weights(query)
        if sampling_first_pays(value, self.num_heads, offsets, reference_points):
            where = (spatial_shapes, offsets, logits, reference_points, key_padding_mask)
            return self.output_proj(sample_then_project(value, self.value_proj, self.num_heads, *where))
        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        value = value.unflatten(2, (self.num_heads, -1))
        return self.output_proj(fused_deform_attn(value, spatial_shapes, offsets, logits, reference_points))
