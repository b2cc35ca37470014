"""MDCA of RS-TinyNet: channel attention, local and global, and spatial attention (docs/papers/rs_tinynet.md#mdca)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.padding import extents, masked_mean, padding_of_level
from d2tiny.modeling.necks.levels import check_levels
from d2tiny.utils.errors import did_you_mean
from d2tiny.utils.registry import NECK_REGISTRY

__all__ = ["MDCA", "MDCAttention"]


class MDCAttention(nn.Module):
    """Multiplies a feature map by channel attention and spatial attention, ``X · A_ch · A_sp``.

    Channel attention is ``a = σ(conv1d(pooled))`` along the channels, of the means of s×s regions and of the mean of
    the map: ``A_ch = (1 − λ)·a_global + λ·a_local`` (eq. 4). Spatial attention is ``A_sp = σ(3×3[mean_c; max_c])``. The
    layer has 28 parameters for 256 or 512 channels.

    Differences from the paper: its eq. 1 averages the s×s regions again, which makes the local attention equal to the
    global one; by default the regions are kept (``grid``), ``literal`` follows the equation. The paper does not say how
    channel and spatial attention are combined.
    """

    def __init__(
        self,
        channels: int,
        *,
        local_size: int = 5,
        local_weight: float = 0.5,
        local_mode: str = "grid",
        combine: str = "mul",
        residual: bool = False,
    ) -> None:
        """Set the attention.

        Args:
            channels: C; the size of the kernel along them is ⌊(log₂ C + 1) / 2⌋, made odd.
            local_size: s, number of regions along a side.
            local_weight: λ in [0, 1].
            local_mode: ``grid`` or ``literal``.
            combine: ``mul``, or ``add`` for X·A_ch + X·A_sp.
            residual: add X to the output.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        if local_size < 1 or not 0 <= local_weight <= 1:
            raise ValueError(
                f"MDCA: need local_size >= 1 and local_weight in [0, 1], got {local_size}, {local_weight}."
            )
        for name, value, known in (
            ("local_mode", local_mode, ("grid", "literal")),
            ("combine", combine, ("mul", "add")),
        ):
            if value not in known:
                raise ValueError(f"MDCA: unknown {name} '{value}'. {did_you_mean(value, known)}")
        kernel = int((math.log2(channels) + 1) / 2)
        kernel += 1 - kernel % 2
        self.local_size, self.local_weight, self.local_mode = local_size, local_weight, local_mode
        self.combine, self.residual = combine, residual
        self.local = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.whole = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.place = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def channel_attention(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Return A_ch in (0, 1), (B, C, H, W), or (B, C, 1, 1) in ``literal`` mode.

        Args:
            x: (B, C, H, W).
            padding: (B, 1, H, W), places that are in no region; there A_ch is 0. None divides the whole map.
        """
        batch, channels = x.shape[:2]
        sizes = None if padding is None else extents(padding)
        regions = F.adaptive_avg_pool2d(x, self.local_size) if sizes is None else self._regions(x, sizes)
        pooled = masked_mean(x, padding).flatten(1)
        global_attention = torch.sigmoid(self.whole(pooled[:, None])).view(batch, channels, 1, 1)
        if self.local_mode == "literal":
            regions = regions.mean(dim=(2, 3), keepdim=True)
        rows = regions.permute(0, 2, 3, 1).reshape(-1, 1, channels)  # the convolution sees one region at a time
        local = torch.sigmoid(self.local(rows)).view(batch, *regions.shape[2:], channels).permute(0, 3, 1, 2)
        if self.local_mode == "grid":
            size = (x.shape[-2], x.shape[-1])
            local = _upsampled(local, size, sizes)
        attention = (1 - self.local_weight) * global_attention + self.local_weight * local
        return attention if padding is None else attention.masked_fill(padding, 0.0)

    def _regions(self, x: Tensor, sizes: tuple[Tensor, Tensor]) -> Tensor:
        """Return the means of the s×s regions of each image of (B, C, H, W), (B, C, s, s).

        Args:
            x: the maps.
            sizes: rows and columns of each image, both (B,).
        """
        rows, columns = (_region_weights(self.local_size, n, x.shape[i]) for n, i in zip(sizes, (2, 3), strict=True))
        x = rows[:, None].to(x.dtype) @ x
        return x @ columns[:, None].to(x.dtype).mT

    def spatial_attention(self, x: Tensor) -> Tensor:
        """Return A_sp in (0, 1), (B, 1, H, W)."""
        return torch.sigmoid(self.place(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)))

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map (B, C, H, W) to the same shape; ``padding`` as in :meth:`channel_attention`."""
        channel, spatial = self.channel_attention(x, padding), self.spatial_attention(x)
        out = x * channel * spatial if self.combine == "mul" else x * channel + x * spatial
        return x + out if self.residual else out


def _region_weights(count: int, used: Tensor, cells: int) -> Tensor:
    """Return the weights (B, count, cells) of the first ``used`` (B,) cells in the means of ``count`` regions.

    The regions are those of adaptive pooling: region i begins at ⌊i·n / count⌋ and ends at ⌈(i + 1)·n / count⌉.
    """
    region, used = torch.arange(count, device=used.device), used[:, None]
    start, end = region * used // count, ((region + 1) * used + count - 1) // count
    cell = torch.arange(cells, device=used.device)
    inside = (cell >= start[..., None]) & (cell < end[..., None])
    return inside / (end - start)[..., None]


def _upsampled(regions: Tensor, size: tuple[int, int], sizes: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return (B, C, H, W) with the value of each cell's region (B, C, s, s); ``sizes`` as in ``_regions``, or None.

    Integers say which region a cell is in: nearest interpolation takes the neighbour at some sizes, by rounding.
    """
    for dim, cells in zip((2, 3), size, strict=True):
        count = regions.shape[dim]
        scaled = torch.arange(cells, device=regions.device) * count
        if sizes is None:
            regions = regions.index_select(dim, scaled // cells)
            continue
        index = (scaled // sizes[dim - 2][:, None]).clamp(max=count - 1)
        shape = [*regions.shape]
        shape[dim] = cells
        regions = regions.gather(dim, (index[:, None, :, None] if dim == 2 else index[:, None, None]).expand(shape))
    return regions


@NECK_REGISTRY.register()
class MDCA(nn.Module):
    """An :class:`MDCAttention` on each of ``in_features``; other feature maps are passed on unchanged."""

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        in_features: Sequence[str] = ("p3", "p4", "p5"),
        local_size: int = 5,
        local_weight: float = 0.5,
        local_mode: str = "grid",
        combine: str = "mul",
        residual: bool = False,
    ) -> None:
        """Build one for each level; the settings are those of :class:`MDCAttention`.

        Args:
            in_channels: channels of the levels.
            in_features: names of the levels.
            local_size: see :class:`MDCAttention`.
            local_weight: likewise.
            local_mode: likewise.
            combine: likewise.
            residual: likewise.

        Raises:
            ValueError: ``in_features`` and ``in_channels`` differ in length, or a setting is outside its range.
        """
        super().__init__()
        if len(in_channels) != len(in_features) or not in_features:
            raise ValueError(
                f"MDCA: {len(in_features)} in_features {list(in_features)} and {len(in_channels)} in_channels."
            )
        self.in_channels = dict(zip(in_features, in_channels, strict=True))
        self.attention = nn.ModuleDict(
            {
                level: MDCAttention(
                    count,
                    local_size=local_size,
                    local_weight=local_weight,
                    local_mode=local_mode,
                    combine=combine,
                    residual=residual,
                )
                for level, count in self.in_channels.items()
            }
        )

    def output_shape(self, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
        """Return channels and stride of each output: those of the input.

        Raises:
            ValueError: a level is missing or has other channels.
        """
        check_levels("MDCA", self.in_channels, input_shape)
        return input_shape

    def forward(self, features: dict[str, Tensor], padding: Tensor | None = None) -> dict[str, Tensor]:
        """Return the feature maps with attention applied to the levels; the input dict is not modified.

        Args:
            features: (B, C, H_l, W_l) by name.
            padding: (B, 1, H, W) of the batch of images, True in the padding; None without padding.
        """
        result = dict(features)
        for name, part in self.attention.items():
            level = features[name]
            result[name] = part(level, None if padding is None else padding_of_level(padding, level))
        return result
