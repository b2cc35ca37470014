"""Multi-scale deformable attention (Zhu et al., Deformable DETR, 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.deform_attn_cpu import DeformAttnCPU
from d2tiny.utils.precision import without_autocast

__all__ = ["MSDeformAttn", "ms_deform_attn", "reference_deform_attn"]

Sizes = Sequence[tuple[int, int]]


def ms_deform_attn(value: Tensor, sizes: Sizes, places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples: ``out_qm = Σ_l Σ_p A_qmlp · v_lm(place_qmlp)``.

    A place (x, y) in [0, 1] spans the whole map of a level; (½, ½) / (W, H) is the middle of the first cell; outside is
    zero. On a processor a numba kernel, on a GPU a Triton kernel where there is Triton, else
    :func:`reference_deform_attn`; all give the same to rounding.

    Args:
        value: (B, S, M, D), the S = Σ H·W cells of all levels, M heads.
        sizes: (H, W) of the L levels.
        places: (B, Q, M, L, P, 2).
        weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M·D) in the type of ``value``; half precision is computed in float32.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(value, sizes, places, weights)
    with without_autocast(value.device):
        if value.device.type == "cpu":
            if torch.compiler.is_compiling() or torch.jit.is_tracing():
                return reference_deform_attn(value, sizes, places, weights)
            kind = torch.float64 if value.dtype == torch.float64 else torch.float32
            parts = (value.to(kind), tuple(map(tuple, sizes)), places.to(kind), weights.to(kind))
            on_cpu: Tensor = DeformAttnCPU.apply(*parts)
            return on_cpu.to(value.dtype)
        if value.device.type == "cuda" and value.dtype != torch.float64 and _has_triton():
            from d2tiny.layers.deform_attn_gpu import DeformAttnGPU

            on_gpu: Tensor = DeformAttnGPU.apply(value, tuple(map(tuple, sizes)), places.float(), weights.float())
            return on_gpu
        return reference_deform_attn(value, sizes, places, weights)


def _has_triton() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def _check(value: Tensor, sizes: Sizes, places: Tensor, weights: Tensor) -> None:
    cells = sum(h * w for h, w in sizes)
    fits = value.dim() == 4 and value.shape[1] == cells and places.dim() == 6 and places.shape[-1] == 2
    fits = fits and places.shape[:-1] == weights.shape and weights.shape[3] == len(sizes)
    if not fits or weights.shape[0] != value.shape[0] or weights.shape[2] != value.shape[2]:
        raise ValueError(
            f"ms_deform_attn: value {tuple(value.shape)} (B, S, M, D), {len(sizes)} levels with {cells} cells, places "
            f"{tuple(places.shape)} (B, Q, M, L, P, 2), weights {tuple(weights.shape)} (B, Q, M, L, P); they must fit."
        )


def reference_deform_attn(value: Tensor, sizes: Sizes, places: Tensor, weights: Tensor) -> Tensor:
    """The same by ``grid_sample``, in float32 or float64: the definition, and slow."""
    kind = torch.float64 if value.dtype == torch.float64 else torch.float32
    batch, _, heads, depth = value.shape
    queries, points = weights.shape[1], weights.shape[4]
    total = value.new_zeros((batch * heads, depth, queries), dtype=kind)
    for level, part in enumerate(value.to(kind).split([h * w for h, w in sizes], dim=1)):
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, depth, *sizes[level])
        grid = 2 * places[:, :, :, level].to(kind).transpose(1, 2).reshape(batch * heads, queries, points, 2) - 1
        samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        share = weights[:, :, :, level].to(kind).transpose(1, 2).reshape(batch * heads, 1, queries, points)
        total = total + (samples * share).sum(dim=-1)
    return total.view(batch, heads * depth, queries).transpose(1, 2).to(value.dtype)


class MSDeformAttn(nn.Module):
    """Each query looks at P places a level and head, which it chooses itself around its reference.

    ``out = W_o · concat_m Σ_l Σ_p A_mlp · (W_v x)_lm(ref + Δ_mlp)``; A is a softmax over all L·P places of a head. Δ
    is in cells of its level round a reference point, in P-ths of half the box round a reference box.

    Differences from the paper: none known.
    """

    def __init__(self, *, channels: int = 256, heads: int = 8, levels: int = 4, points: int = 4) -> None:
        """Set the shape.

        Args:
            channels: C = M·D.
            heads: M.
            levels: L.
            points: P.

        Raises:
            ValueError: heads that do not divide the channels.
        """
        super().__init__()
        if channels % heads or levels < 1 or points < 1:
            raise ValueError(
                f"MSDeformAttn: heads must divide the channels, and there are levels and points: {channels} channels, "
                f"{heads} heads, {levels} levels, {points} points."
            )
        self.channels, self.heads, self.levels, self.points = channels, heads, levels, points
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look into eight directions, point p at p + 1 cells, all with the same weight."""
        nn.init.zeros_(self.offsets.weight)
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1.0)
        with torch.no_grad():
            grid = direction[:, None, None] * steps[None, None, :, None]
            self.offsets.bias.copy_(grid.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, reference: Tensor, memory: Tensor, sizes: Sizes, padding: Tensor | None = None
    ) -> Tensor:
        """Look.

        Args:
            query: (B, Q, C), position added.
            reference: (B, Q, L, 2) points or (B, Q, L, 4) boxes cx, cy, w, h, in [0, 1] of the padded maps.
            memory: (B, S, C).
            sizes: (H, W) of the levels.
            padding: (B, S) boolean, cells that are none of the image.

        Returns:
            (B, Q, C).
        """
        batch, queries, _ = query.shape
        value = self.value(memory)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        value = value.view(batch, -1, self.heads, self.channels // self.heads)
        shape = (batch, queries, self.heads, self.levels, self.points)
        weights = self.weights(query).float().view(*shape[:3], -1).softmax(dim=-1).view(shape)
        delta = self.offsets(query).float().view(*shape, 2)
        reference = reference.float()[:, :, None, :, None]
        if reference.shape[-1] == 2:
            cells = torch.tensor([(w, h) for h, w in sizes], device=query.device, dtype=torch.float32)
            places = reference + delta / cells[:, None]
        else:
            places = reference[..., :2] + delta / self.points * reference[..., 2:] * 0.5
        return self.output(ms_deform_attn(value, sizes, places, weights))
