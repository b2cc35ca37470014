"""PFDH of RS-TinyNet: progressive fusion of the levels (docs/papers/rs_tinynet.md#pfdh; Yang et al., AFPN, 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import C3k2, ConvBN
from d2tiny.modeling.necks.levels import check_levels
from d2tiny.utils.errors import did_you_mean
from d2tiny.utils.registry import NECK_REGISTRY

__all__ = ["ASFF", "PFDH", "ResidualBlock"]

_COMPRESSED_CHANNELS = 8
_SKIPS = ("around", "stages", "none")
_BLOCKS = ("c3k2", "residual")


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


def _zero(inputs: int, outputs: int) -> nn.Conv2d:
    """Build a 1×1 convolution whose outputs are zero until it is trained."""
    conv = nn.Conv2d(inputs, outputs, 1)
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class ResidualBlock(nn.Module):
    """AFPN's block: two 3×3 convolutions whose result is added to the input, then ReLU (He et al., 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels, 3)
        self.second = ConvBN(channels, channels, 3, with_activation=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return F.relu(x + self.second(self.first(x)))


def _blocks(kind: str, channels: int, count: int) -> nn.Sequential:
    if kind == "residual":
        return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))
    return nn.Sequential(*(C3k2(channels, channels, 1, c3k=True) for _ in range(count)))


class _Stage(nn.Module):
    """Fuses all given levels with each other, then applies blocks to each."""

    def __init__(self, channels: Sequence[int], repeats: int, block: str, residual: bool) -> None:
        super().__init__()
        self.residual = residual
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
        self.blocks = nn.ModuleList(_blocks(block, c, repeats) for c in channels)

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
            fused = block(fuse(inputs))
            result.append(levels[target] + fused if self.residual else fused)
        return result


@NECK_REGISTRY.register()
class PFDH(nn.Module):
    """Progressive fusion before the head: first the two finest levels are fused, then three, and so on.

    A finer level is downsampled by a convolution as large as its stride, a coarser one upsampled by a 1×1 convolution
    and bilinear interpolation. Inside, levels have a quarter of their channels.

    The paper shows a chain: what the head sees has gone through all of the stages (``skip="none"``). Such a chain
    multiplies the gradients of what is before it and learns slowly; ``skip="around"`` adds what the chain says to the
    levels, from zero on, so that the detector starts as if it had none.

    Differences from the paper, ``skip="none", block="c3k2", repeats=2``: each level and stage has two C3k2 blocks
    instead of AFPN's four residual ones, as many as the published number of parameters allows (+ 1,280,885 against
    + 1,280,749).
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        out_channels: int | None = None,
        in_features: Sequence[str] = ("p3", "p4", "p5"),
        skip: str = "around",
        block: str = "c3k2",
        reduction: int = 4,
        min_width: int = 0,
        repeats: int = 2,
    ) -> None:
        """Build the stages.

        Args:
            in_channels: channels of the levels, finest first.
            out_channels: channels of all outputs; None keeps those of each level.
            in_features: names of the levels; other feature maps are passed on unchanged.
            skip: ``around`` adds the outputs to the levels (a 1×1 convolution matches their channels) and starts at
                zero; ``stages`` adds each level to what a stage makes of it; ``none`` is the paper's chain.
            block: ``c3k2`` of YOLO11, or ``residual``, AFPN's.
            reduction: divides the channels inside.
            min_width: least channels inside.
            repeats: number of blocks of a level in a stage.

        Raises:
            ValueError: ``in_features`` and ``in_channels`` differ in length, fewer than two levels, or an unknown
                ``skip`` or ``block``.
        """
        super().__init__()
        if len(in_channels) != len(in_features) or len(in_features) < 2:
            raise ValueError(
                f"PFDH: {len(in_features)} in_features {list(in_features)} and {len(in_channels)} in_channels; "
                "two or more."
            )
        for name, value, known in (("skip", skip, _SKIPS), ("block", block, _BLOCKS)):
            if value not in known:
                raise ValueError(f"PFDH: {name} is {value!r}. {did_you_mean(str(value), known)}")
        self.in_channels = dict(zip(in_features, in_channels, strict=True))
        outputs = [out_channels or count for count in in_channels]
        self.out_channels = dict(zip(in_features, outputs, strict=True))
        inner = [max(count // reduction, min_width) for count in in_channels]
        self.reduce = nn.ModuleList(
            nn.Sequential(_conv(a, b), _conv(b, b)) for a, b in zip(in_channels, inner, strict=True)
        )
        self.stages = nn.ModuleList(
            _Stage(inner[:count], repeats, block, skip == "stages") for count in range(2, len(in_features) + 1)
        )
        around = skip == "around"
        self.expand = nn.ModuleList((_zero if around else _conv)(a, b) for a, b in zip(inner, outputs, strict=True))
        self.match = None
        if around:
            self.match = nn.ModuleList(
                nn.Identity() if a == b else ConvBN(a, b, with_activation=False)
                for a, b in zip(in_channels, outputs, strict=True)
            )

    def output_shape(self, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
        """Return channels and stride of each output.

        Raises:
            ValueError: a level is missing or has other channels.
        """
        check_levels("PFDH", self.in_channels, input_shape)
        new = {n: ShapeSpec(channels=c, stride=input_shape[n].stride) for n, c in self.out_channels.items()}
        return {**input_shape, **new}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the feature maps with the levels fused; the input dict is not modified."""
        inputs = [features[name] for name in self.in_channels]
        levels = [conv(x) for conv, x in zip(self.reduce, inputs, strict=True)]
        for stage in self.stages:
            count = len(stage.fuse)  # type: ignore[arg-type]
            levels[:count] = stage(levels[:count])
        out = [conv(x) for conv, x in zip(self.expand, levels, strict=True)]
        if self.match is not None:
            out = [match(x) + y for match, x, y in zip(self.match, inputs, out, strict=True)]
        return {**features, **dict(zip(self.in_channels, out, strict=True))}
