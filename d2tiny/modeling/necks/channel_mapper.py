"""Projection of all levels to the same channels, and additional coarser levels (Deformable DETR, Zhu et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn

from d2tiny.layers.masked_norm import masked_norm
from d2tiny.layers.padding import padding_of_level
from d2tiny.modeling.necks.levels import check_levels
from d2tiny.utils.registry import NECK_REGISTRY

__all__ = ["ChannelMapper"]


@NECK_REGISTRY.register()
class ChannelMapper(nn.Module):
    """1×1 convolution and norm on each level; extra levels by 3×3 convolutions of stride 2 from the coarsest.

    The padding of a batch is left out of the statistics of a group normalisation: a score does not depend on the size
    of the batch mates.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        channels: int = 256,
        extra: int = 1,
        norm: str = "GN",
        mask_padding: bool = True,
    ) -> None:
        """Build the convolutions.

        Args:
            in_features: the backbone's levels, finest first.
            in_channels: channels of these levels.
            channels: of the outputs, ``m0`` (finest), ``m1``, …
            extra: number of extra coarser levels.
            norm: a normalisation layer of Detectron2; ``GN`` has 32 groups.
            mask_padding: False lets the statistics include the padding, as in the released DINO.

        Raises:
            ValueError: ``in_features`` and ``in_channels`` differ in length.
        """
        super().__init__()
        if len(in_features) != len(in_channels) or not in_features:
            raise ValueError(f"ChannelMapper: {len(in_features)} in_features and {len(in_channels)} in_channels.")
        self.mask_padding = mask_padding
        self.in_channels, self.channels, self.extra = dict(zip(in_features, in_channels, strict=True)), channels, extra

        def conv(inputs: int, kernel: int) -> nn.Sequential:
            layer = nn.Conv2d(inputs, channels, kernel, stride=1 if kernel == 1 else 2, padding=kernel // 2)
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            return nn.Sequential(layer, get_norm(norm, channels))

        self.same = nn.ModuleList(conv(count, 1) for count in in_channels)
        self.coarser = nn.ModuleList(conv(channels if i else in_channels[-1], 3) for i in range(extra))
        self.names = [f"m{i}" for i in range(len(in_features) + extra)]

    def output_shape(self, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
        """Return channels and stride of each output.

        Raises:
            ValueError: a level is missing or has other channels.
        """
        check_levels("ChannelMapper", self.in_channels, input_shape)
        strides = [input_shape[name].stride for name in self.in_channels]
        for _ in range(self.extra):
            strides.append(None if strides[-1] is None else 2 * strides[-1])
        return {n: ShapeSpec(channels=self.channels, stride=s) for n, s in zip(self.names, strides, strict=True)}

    def forward(self, features: dict[str, Tensor], padding: Tensor | None = None) -> dict[str, Tensor]:
        """Map the levels of ``in_features`` to ``m0``, ``m1``, …, (B, C, H_l, W_l); the input dict is not modified.

        Args:
            features: the levels (B, C_l, H_l, W_l).
            padding: (B, 1, H, W) of the batch of images, True in the padding; None without padding.
        """
        padding = padding if self.mask_padding else None
        levels = [features[name] for name in self.in_channels]
        maps = [_project(layer, x, padding) for layer, x in zip(self.same, levels, strict=True)]
        x = levels[-1]
        for layer in self.coarser:
            if padding is not None:
                x = x.masked_fill(padding_of_level(padding, x), 0.0)
            x = _project(layer, x, padding)
            maps.append(x)
        return dict(zip(self.names, maps, strict=True))


def _project(layer: nn.Module, x: Tensor, padding: Tensor | None) -> Tensor:
    """Apply convolution and norm; ``padding`` is that of the images."""
    assert isinstance(layer, nn.Sequential)
    conv, norm = layer
    out: Tensor = conv(x)
    return masked_norm(norm, out, None if padding is None else ~padding_of_level(padding, out))
