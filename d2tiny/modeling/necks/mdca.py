"""MDCA of RS-TinyNet: attention to channels, near and far, and to places (SPEC §7.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.modeling.necks.levels import check_levels
from d2tiny.utils.errors import did_you_mean
from d2tiny.utils.registry import NECK_REGISTRY

__all__ = ["MDCA", "MDCAttention"]


class MDCAttention(nn.Module):
    """``X · A_ch · A_sp``: channel weights of s×s regions and of the whole map, mixed, times weights of places.

    ``a = σ(conv1d(pooled))`` along the channels, ``A_ch = (1 − λ)·a_global + λ·a_local`` (eq. 4),
    ``A_sp = σ(3×3[mean_c; max_c])``. 28 parameters for 256 or 512 channels.

    Differences from the paper: its eq. 1 averages the s×s regions again, which makes local the same as global; by
    default the regions are kept (``grid``), ``literal`` is the equation. How channels and places meet is not said
    there.
    """

    def __init__(
        self,
        channels: int,
        *,
        local_size: int = 5,
        local_share: float = 0.5,
        local_mode: str = "grid",
        combine: str = "mul",
        residual: bool = False,
    ) -> None:
        """Set the attention.

        Args:
            channels: C; the kernel along them is the odd one of ⌊(log₂ C + 1) / 2⌋.
            local_size: s, regions along a side.
            local_share: λ in [0, 1].
            local_mode: ``grid`` or ``literal``.
            combine: ``mul``, or ``add`` for X·A_ch + X·A_sp.
            residual: add X.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        if local_size < 1 or not 0 <= local_share <= 1:
            raise ValueError(f"MDCA: need local_size >= 1 and local_share in [0, 1], got {local_size}, {local_share}.")
        for name, value, known in (
            ("local_mode", local_mode, ("grid", "literal")),
            ("combine", combine, ("mul", "add")),
        ):
            if value not in known:
                raise ValueError(f"MDCA: unknown {name} '{value}'. {did_you_mean(value, known)}")
        kernel = int((math.log2(channels) + 1) / 2)
        kernel += 1 - kernel % 2
        self.local_size, self.local_share, self.local_mode = local_size, local_share, local_mode
        self.combine, self.residual = combine, residual
        self.local = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.whole = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.place = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def channel_weights(self, x: Tensor) -> Tensor:
        """A_ch in (0, 1), (B, C, H, W), or (B, C, 1, 1) in ``literal`` mode."""
        batch, channels = x.shape[:2]
        cells = F.adaptive_avg_pool2d(x, self.local_size)
        pooled = x.mean(dim=(2, 3))
        whole = torch.sigmoid(self.whole(pooled[:, None])).view(batch, channels, 1, 1)
        if self.local_mode == "literal":
            cells = cells.mean(dim=(2, 3), keepdim=True)
        regions = cells.permute(0, 2, 3, 1).reshape(-1, 1, channels)  # each region by itself
        near = torch.sigmoid(self.local(regions)).view(batch, *cells.shape[2:], channels).permute(0, 3, 1, 2)
        if self.local_mode == "grid":
            near = F.interpolate(near, size=x.shape[-2:], mode="nearest")
        return (1 - self.local_share) * whole + self.local_share * near

    def place_weights(self, x: Tensor) -> Tensor:
        """A_sp in (0, 1), (B, 1, H, W)."""
        return torch.sigmoid(self.place(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        channel, place = self.channel_weights(x), self.place_weights(x)
        out = x * channel * place if self.combine == "mul" else x * channel + x * place
        return x + out if self.residual else out


@NECK_REGISTRY.register()
class MDCA(nn.Module):
    """An :class:`MDCAttention` on each of some levels; the others pass unchanged."""

    def __init__(
        self,
        *,
        channels: Sequence[int],
        levels: Sequence[str] = ("p3", "p4", "p5"),
        local_size: int = 5,
        local_share: float = 0.5,
        local_mode: str = "grid",
        combine: str = "mul",
        residual: bool = False,
    ) -> None:
        """Build one for each level; settings as of :class:`MDCAttention`.

        Args:
            channels: of the levels.
            levels: their names.
            local_size: see :class:`MDCAttention`.
            local_share: likewise.
            local_mode: likewise.
            combine: likewise.
            residual: likewise.

        Raises:
            ValueError: numbers differ, or a setting outside its range.
        """
        super().__init__()
        if len(channels) != len(levels) or not levels:
            raise ValueError(f"MDCA: {len(levels)} levels {list(levels)} and {len(channels)} channels.")
        self.channels = dict(zip(levels, channels, strict=True))
        self.attention = nn.ModuleDict(
            {
                level: MDCAttention(
                    count,
                    local_size=local_size,
                    local_share=local_share,
                    local_mode=local_mode,
                    combine=combine,
                    residual=residual,
                )
                for level, count in self.channels.items()
            }
        )

    def output_shape(self, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
        """Names, channels and strides of the output: those of the input.

        Raises:
            ValueError: a level is missing or has other channels.
        """
        check_levels("MDCA", self.channels, input_shape)
        return input_shape

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the features with the levels weighted; the input dict is not modified."""
        return {**features, **{name: part(features[name]) for name, part in self.attention.items()}}
