"""PFDH of RS-TinyNet: progressive fusion of the levels (docs/papers/rs_tinynet.md#pfdh; Yang et al., AFPN, 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import C3k2, ConvBN
from d2tiny.modeling.necks.levels import check_levels
from d2tiny.utils.registry import NECK_REGISTRY

__all__ = ["ASFF", "PFDH"]

_COMPRESSED_CHANNELS = 8


class ASFF(nn.Module):
    """Adaptively spatial feature fusion: a mean of the inputs, with weights by softmax at each position."""

    def __init__(self, channels: int, count: int) -> None:
        """Build the fusion of ``count`` maps with the same channels and size."""
        super().__init__()
        self.compress = nn.ModuleList(_conv(channels, _COMPRESSED_CHANNELS) for _ in range(count))
        self.logits = nn.Conv2d(count * _COMPRESSED_CHANNELS, count, 1)
        self.join = _conv(channels, channels, 3)

    def weights(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the weights of n inputs, (B, n, H, W) ≥ 0 with sum 1 over the inputs."""
        compressed = [conv(x) for conv, x in zip(self.compress, inputs, strict=True)]
        return self.logits(torch.cat(compressed, dim=1)).softmax(dim=1)

    def weighted_mean(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the weighted mean of the inputs, (B, C, H, W) (eq. 12)."""
        weights = self.weights(inputs)
        return torch.stack([x * weights[:, i : i + 1] for i, x in enumerate(inputs)]).sum(dim=0)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Map n inputs (B, C, H, W) to their weighted mean after a 3×3 convolution, (B, C, H, W)."""
        return self.join(self.weighted_mean(inputs))


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> ConvBN:
    """Build a convolution with norm and ReLU; a kernel as large as its stride needs no padding."""
    padding = 0 if kernel == stride else None
    return ConvBN(inputs, outputs, kernel, stride, padding=padding, activation=nn.ReLU(inplace=True))


class _Stage(nn.Module):
    """Fuses all given levels with each other, then applies blocks to each."""

    def __init__(self, channels: Sequence[int], repeats: int) -> None:
        super().__init__()
        count = len(channels)
        self.resize = nn.ModuleDict()
        for target in range(count):
            for source in range(count):
                if source > target:
                    self.resize[f"{source}{target}"] = _conv(channels[source], channels[target])
                elif source < target:
                    stride = 2 ** (target - source)
                    self.resize[f"{source}{target}"] = _conv(channels[source], channels[target], stride, stride)
        self.fuse = nn.ModuleList(ASFF(c, count) for c in channels)
        self.blocks = nn.ModuleList(nn.Sequential(*(C3k2(c, c, 1, c3k=True) for _ in range(repeats))) for c in channels)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        result = []
        for target, (fuse, block) in enumerate(zip(self.fuse, self.blocks, strict=True)):
            size = levels[target].shape[-2:]
            inputs = []
            for source, x in enumerate(levels):
                if source != target:
                    x = self.resize[f"{source}{target}"](x)
                    if x.shape[-2:] != size:  # a coarser level, or a finer one with an odd side
                        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
                inputs.append(x)
            result.append(block(fuse(inputs)))
        return result


@NECK_REGISTRY.register()
class PFDH(nn.Module):
    """Progressive fusion before the head: first the two finest levels are fused, then three, and so on.

    A finer level is downsampled by a convolution as large as its stride, a coarser one upsampled by a 1×1 convolution
    and bilinear interpolation. All outputs have the same channels; inside, levels have a quarter of theirs.

    Differences from the paper: each level and stage has two C3k2 blocks instead of AFPN's four residual ones, as many
    as the published number of parameters allows (+ 1,280,885 against + 1,280,749).
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: int,
        in_features: Sequence[str] = ("p3", "p4", "p5"),
        reduction: int = 4,
        repeats: int = 2,
    ) -> None:
        """Build the stages.

        Args:
            in_channels: channels of the levels, finest first.
            out_channels: channels of all outputs.
            in_features: names of the levels; other feature maps are passed on unchanged.
            reduction: divides the channels inside.
            repeats: number of blocks of a level in a stage.

        Raises:
            ValueError: ``in_features`` and ``in_channels`` differ in length, or fewer than two levels.
        """
        super().__init__()
        if len(in_channels) != len(in_features) or len(in_features) < 2:
            raise ValueError(
                f"PFDH: {len(in_features)} in_features {list(in_features)} and {len(in_channels)} in_channels; "
                "two or more."
            )
        self.in_channels = dict(zip(in_features, in_channels, strict=True))
        self.out_channels = out_channels
        inner = [count // reduction for count in in_channels]
        self.reduce = nn.ModuleList(
            nn.Sequential(_conv(a, b), _conv(b, b)) for a, b in zip(in_channels, inner, strict=True)
        )
        self.stages = nn.ModuleList(_Stage(inner[:count], repeats) for count in range(2, len(in_features) + 1))
        self.expand = nn.ModuleList(_conv(count, out_channels) for count in inner)

    def output_shape(self, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
        """Return channels and stride of each output.

        Raises:
            ValueError: a level is missing or has other channels.
        """
        check_levels("PFDH", self.in_channels, input_shape)
        new = {n: ShapeSpec(channels=self.out_channels, stride=input_shape[n].stride) for n in self.in_channels}
        return {**input_shape, **new}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the feature maps with the levels fused; the input dict is not modified."""
        levels = [conv(features[name]) for name, conv in zip(self.in_channels, self.reduce, strict=True)]
        for stage in self.stages:
            count = len(stage.fuse)  # type: ignore[arg-type]
            levels[:count] = stage(levels[:count])
        out = [conv(x) for conv, x in zip(self.expand, levels, strict=True)]
        return {**features, **dict(zip(self.in_channels, out, strict=True))}
