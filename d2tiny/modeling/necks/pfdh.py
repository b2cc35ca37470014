"""PFDH of RS-TinyNet: levels fused step by step, neighbours first (SPEC §7.4; Yang et al., AFPN, 2023)."""

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

_COMPRESSED = 8


class ASFF(nn.Module):
    """Adaptively spatial feature fusion: a weighted mean whose weights are a softmax over the inputs at each place."""

    def __init__(self, channels: int, count: int) -> None:
        """Fuse ``count`` maps of the same channels and size."""
        super().__init__()
        self.compress = nn.ModuleList(_conv(channels, _COMPRESSED) for _ in range(count))
        self.logits = nn.Conv2d(count * _COMPRESSED, count, 1)
        self.join = _conv(channels, channels, 3)

    def weights(self, inputs: Sequence[Tensor]) -> Tensor:
        """(B, n, H, W) ≥ 0, sum 1 over the inputs."""
        said = [conv(x) for conv, x in zip(self.compress, inputs, strict=True)]
        return self.logits(torch.cat(said, dim=1)).softmax(dim=1)

    def mix(self, inputs: Sequence[Tensor]) -> Tensor:
        """(B, C, H, W) the weighted mean (eq. 12)."""
        weights = self.weights(inputs)
        return torch.stack([x * weights[:, i : i + 1] for i, x in enumerate(inputs)]).sum(dim=0)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The mean, through a 3×3 convolution."""
        return self.join(self.mix(inputs))


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> ConvBN:
    """With ReLU; a kernel as large as its stride needs no border."""
    padding = 0 if kernel == stride else None
    return ConvBN(inputs, outputs, kernel, stride, padding=padding, activation=nn.ReLU(inplace=True))


class _Stage(nn.Module):
    """Fuses the first ``count`` levels with each other, then blocks on each."""

    def __init__(self, channels: Sequence[int], repeats: int) -> None:
        super().__init__()
        count = len(channels)
        self.resize = nn.ModuleDict()
        for to in range(count):
            for at in range(count):
                if at > to:
                    self.resize[f"{at}{to}"] = _conv(channels[at], channels[to])
                elif at < to:
                    step = 2 ** (to - at)
                    self.resize[f"{at}{to}"] = _conv(channels[at], channels[to], step, step)
        self.fuse = nn.ModuleList(ASFF(c, count) for c in channels)
        self.blocks = nn.ModuleList(nn.Sequential(*(C3k2(c, c, 1, c3k=True) for _ in range(repeats))) for c in channels)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        result = []
        for to, (fuse, block) in enumerate(zip(self.fuse, self.blocks, strict=True)):
            size = levels[to].shape[-2:]
            inputs = []
            for at, x in enumerate(levels):
                if at != to:
                    x = self.resize[f"{at}{to}"](x)
                    if x.shape[-2:] != size:  # upwards, and downwards where a side was odd
                        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
                inputs.append(x)
            result.append(block(fuse(inputs)))
        return result


@NECK_REGISTRY.register()
class PFDH(nn.Module):
    """Progressive fusion before the head: the two finest levels fuse, then three, and so on; all get the same channels.

    A finer level comes down by a convolution as large as its stride, a coarser one up by 1×1 and bilinear. The channels
    are a quarter in between.

    Differences from the paper: blocks are two C3k2 a level and stage instead of AFPN's four residual ones, which is
    what the published number of parameters allows (+ 1,280,885 against + 1,280,749).
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: int,
        levels: Sequence[str] = ("p3", "p4", "p5"),
        reduction: int = 4,
        repeats: int = 2,
    ) -> None:
        """Build the stages.

        Args:
            in_channels: of the levels, finest first.
            out_channels: of all levels that go out.
            levels: their names; other features pass unchanged.
            reduction: divides the channels inside.
            repeats: blocks of a level in a stage.

        Raises:
            ValueError: numbers differ, or fewer than two levels.
        """
        super().__init__()
        if len(in_channels) != len(levels) or len(levels) < 2:
            raise ValueError(
                f"PFDH: {len(levels)} levels {list(levels)} and {len(in_channels)} in_channels; two or more."
            )
        self.in_channels = dict(zip(levels, in_channels, strict=True))
        self.out_channels = out_channels
        inner = [count // reduction for count in in_channels]
        self.reduce = nn.ModuleList(
            nn.Sequential(_conv(a, b), _conv(b, b)) for a, b in zip(in_channels, inner, strict=True)
        )
        self.stages = nn.ModuleList(_Stage(inner[:count], repeats) for count in range(2, len(levels) + 1))
        self.expand = nn.ModuleList(_conv(count, out_channels) for count in inner)

    def output_shape(self, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
        """Names, channels and strides of the output.

        Raises:
            ValueError: a level is missing or has other channels.
        """
        check_levels("PFDH", self.in_channels, input_shape)
        new = {n: ShapeSpec(channels=self.out_channels, stride=input_shape[n].stride) for n in self.in_channels}
        return {**input_shape, **new}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the features with the levels fused; the input dict is not modified."""
        levels = [conv(features[name]) for name, conv in zip(self.in_channels, self.reduce, strict=True)]
        for stage in self.stages:
            count = len(stage.fuse)  # type: ignore[arg-type]
            levels[:count] = stage(levels[:count])
        out = [conv(x) for conv, x in zip(self.expand, levels, strict=True)]
        return {**features, **dict(zip(self.in_channels, out, strict=True))}
