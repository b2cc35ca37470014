"""Multi-scale deformable attention (Zhu et al., Deformable DETR, 2021).

Letters in shapes: B images, S tokens (the cells of all levels), Q queries, M heads, D channels of a head, L levels,
P sampling points of a head and level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.deform_attn_cpu import DeformAttnCPU
from d2tiny.utils.precision import without_autocast

__all__ = ["MSDeformAttn", "ms_deform_attn", "reference_deform_attn"]

SpatialShapes = Sequence[tuple[int, int]]


def ms_deform_attn(
    value: Tensor, spatial_shapes: SpatialShapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Return the weighted sum of bilinear samples, ``out_qm = Σ_l Σ_p A_qmlp · v_lm(location_qmlp)``.

    A location (x, y) in [0, 1] spans the feature map of its level: (0.5 / W, 0.5 / H) is the centre of the first cell.
    Outside the map the value is zero. CPUs run a numba kernel, GPUs a Triton kernel if Triton is installed; otherwise
    :func:`reference_deform_attn` is used. All give the same result up to rounding.

    Args:
        value: (B, S, M, D), S = Σ H·W.
        spatial_shapes: (H, W) of the L levels.
        sampling_locations: (B, Q, M, L, P, 2) x, y.
        attention_weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M·D) in the type of ``value``; half precision is computed in float32.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(value, spatial_shapes, sampling_locations, attention_weights)
    with without_autocast(value.device):
        if value.device.type == "cpu":
            if torch.compiler.is_compiling() or torch.jit.is_tracing():
                return reference_deform_attn(value, spatial_shapes, sampling_locations, attention_weights)
            dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
            inputs = (value.to(dtype), tuple(map(tuple, spatial_shapes)))
            on_cpu: Tensor = DeformAttnCPU.apply(*inputs, sampling_locations.to(dtype), attention_weights.to(dtype))
            return on_cpu.to(value.dtype)
        if value.device.type == "cuda" and value.dtype != torch.float64 and _has_triton():
            from d2tiny.layers.deform_attn_gpu import DeformAttnGPU

            inputs = (value, tuple(map(tuple, spatial_shapes)))
            on_gpu: Tensor = DeformAttnGPU.apply(*inputs, sampling_locations.float(), attention_weights.float())
            return on_gpu
        return reference_deform_attn(value, spatial_shapes, sampling_locations, attention_weights)


def _has_triton() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def _check(value: Tensor, spatial_shapes: SpatialShapes, locations: Tensor, weights: Tensor) -> None:
    cells = sum(h * w for h, w in spatial_shapes)
    fits = value.dim() == 4 and value.shape[1] == cells and locations.dim() == 6 and locations.shape[-1] == 2
    fits = fits and locations.shape[:-1] == weights.shape and weights.shape[3] == len(spatial_shapes)
    if not fits or weights.shape[0] != value.shape[0] or weights.shape[2] != value.shape[2]:
        raise ValueError(
            f"ms_deform_attn: value {tuple(value.shape)} (B, S, M, D), {len(spatial_shapes)} levels with {cells} "
            f"cells, sampling_locations {tuple(locations.shape)} (B, Q, M, L, P, 2), attention_weights "
            f"{tuple(weights.shape)} (B, Q, M, L, P); they must fit."
        )


def reference_deform_attn(
    value: Tensor, spatial_shapes: SpatialShapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Compute :func:`ms_deform_attn` by ``grid_sample`` in float32 or float64; slow, and the definition for tests."""
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    batch, _, heads, depth = value.shape
    queries, points = attention_weights.shape[1], attention_weights.shape[4]
    total = value.new_zeros((batch * heads, depth, queries), dtype=dtype)
    for level, part in enumerate(value.to(dtype).split([h * w for h, w in spatial_shapes], dim=1)):
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, depth, *spatial_shapes[level])
        locations = sampling_locations[:, :, :, level].to(dtype).transpose(1, 2)
        grid = 2 * locations.reshape(batch * heads, queries, points, 2) - 1
        samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weights = attention_weights[:, :, :, level].to(dtype).transpose(1, 2)
        total = total + (samples * weights.reshape(batch * heads, 1, queries, points)).sum(dim=-1)
    return total.view(batch, heads * depth, queries).transpose(1, 2).to(value.dtype)


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
        batch, queries, _ = query.shape
        value = self.value_proj(value)
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        value = value.view(batch, -1, self.num_heads, self.embed_dim // self.num_heads)
        shape = (batch, queries, self.num_heads, self.num_levels, self.num_points)
        weights = self.attention_weights(query).float().view(*shape[:3], -1).softmax(dim=-1).view(shape)
        offsets = self.sampling_offsets(query).float().view(*shape, 2)
        reference = reference_points.float()[:, :, None, :, None]
        if reference.shape[-1] == 2:
            sides = torch.tensor([(w, h) for h, w in spatial_shapes], device=query.device, dtype=torch.float32)
            locations = reference + offsets / sides[:, None]
        else:
            locations = reference[..., :2] + offsets / self.num_points * reference[..., 2:] * 0.5
        return self.output_proj(ms_deform_attn(value, spatial_shapes, locations, weights))
