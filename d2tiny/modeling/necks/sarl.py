"""SARL: scale-aware relay layer between backbone and neck (arXiv 2511.09891)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.layers import ShapeSpec, get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import DilatedDepthwise, yolo_norm
from d2tiny.layers.masked_norm import masked_norm
from d2tiny.layers.padding import masked_max, masked_mean, padding_of_level
from d2tiny.modeling.necks.levels import check_levels
from d2tiny.utils.errors import did_you_mean
from d2tiny.utils.registry import NECK_REGISTRY

__all__ = ["FEM", "FIM", "SARL"]

_ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU}


def _conv(inputs: int, outputs: int, kernel: int, norm: str, *, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    """Build a convolution without bias and its normalisation; with a dilation it is depth-wise."""
    conv: nn.Conv2d
    if dilation > 1:
        conv = DilatedDepthwise(inputs, kernel, dilation, bias=False)
    else:
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    weight_init.c2_msra_fill(conv)
    return nn.Sequential(conv, _norm(norm, outputs))


def _norm(norm: str, channels: int) -> nn.Module:
    if norm == "YOLO":
        return yolo_norm(channels)
    if norm == "GN":  # groups of 32, or fewer where the channels of a backbone are no multiple of it
        return nn.GroupNorm(math.gcd(32, channels), channels)
    return get_norm(norm, channels)


def _without(padding: Tensor | None, block: nn.Sequential, x: Tensor) -> Tensor:
    """Apply layers that keep the size of (B, C, H, W); group norms leave the cells of ``padding`` out.

    Args:
        padding: (B, 1, H', W') of the images; None without padding.
        block: the layers.
        x: the input.
    """
    valid = None if padding is None else ~padding_of_level(padding, x)
    for layer in block:
        x = _without(padding, layer, x) if isinstance(layer, nn.Sequential) else masked_norm(layer, x, valid)
    return x


class FIM(nn.Module):
    """Feature interaction: the high level weights the channels and positions of the low level.

    ``U = act(norm(1×1(high)))`` at the low level's size, ``a_c = σ(MLP(mean U) + MLP(max U))``,
    ``a_s = σ(7×7[mean_c U; max_c U])``, output ``low · a_c · a_s``. Without ``channel_max``, ``a_c = σ(MLP(mean U))``.
    """

    def __init__(
        self,
        low: int,
        high: int,
        *,
        norm: str,
        activation: str,
        use_channel: bool = True,
        use_spatial: bool = True,
        channel_max: bool = True,
    ) -> None:
        super().__init__()
        self.channel_max = channel_max
        self.align = nn.Sequential(_conv(high, low, 1, norm), _ACTIVATIONS[activation]())
        self.channel = self.spatial = None
        if use_channel:
            hidden = max(low // 16, 8)
            self.channel = nn.Sequential(nn.Conv2d(low, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, low, 1))
        if use_spatial:
            self.spatial = nn.Conv2d(2, 1, 7, padding=3)

    def attention(self, aligned: Tensor, padding: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Return a_c (B, c, 1, 1) and a_s (B, 1, H, W), both in (0, 1), of U (B, c, H, W); None for one that is off.

        Args:
            aligned: U.
            padding: (B, 1, H, W), places that the pooling leaves out; None pools over all.
        """
        channel = spatial = None
        if self.channel is not None:
            pooled = self.channel(masked_mean(aligned, padding))
            if self.channel_max:
                pooled = pooled + self.channel(masked_max(aligned, padding))
            channel = torch.sigmoid(pooled)
        if self.spatial is not None:
            both = torch.cat((aligned.mean(dim=1, keepdim=True), aligned.amax(dim=1, keepdim=True)), dim=1)
            spatial = torch.sigmoid(self.spatial(both))
        return channel, spatial

    def forward(self, low: Tensor, high: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map low (B, c, H, W) and high (B, C, h, w) to the weighted low level and U, both (B, c, H, W).

        Args:
            low: the level that is weighted.
            high: the level above it.
            padding: (B, 1, H', W') of the images; None without padding.
        """
        aligned = F.interpolate(_without(padding, self.align, high), size=low.shape[-2:], mode="nearest")
        out = low
        for weight in self.attention(aligned, None if padding is None else padding_of_level(padding, low)):
            out = out if weight is None else out * weight
        return out, aligned


class FEM(nn.Module):
    """Feature enhancement: combines the weighted low level Z with U through two depth-wise convolutions.

    ``E = act(norm(1×1[Z; U]))``, output ``norm(1×1(act(dw₁(E) + dw₂(E) + E)))`` with dilations 1 and 2.
    """

    def __init__(self, channels: int, *, norm: str, activation: str) -> None:
        super().__init__()
        self.squeeze = _conv(2 * channels, channels, 1, norm)
        self.near = _conv(channels, channels, 3, norm, groups=channels)
        self.far = _conv(channels, channels, 3, norm, dilation=2)
        self.project = _conv(channels, channels, 1, norm)
        self.activation = _ACTIVATIONS[activation]()

    def forward(self, weighted: Tensor, aligned: Tensor, padding: Tensor | None = None) -> Tensor:
        """Map Z and U, both (B, c, H, W), to (B, c, H, W); ``padding`` is (B, 1, H', W') of the images, or None."""
        squeezed = self.activation(_without(padding, self.squeeze, torch.cat((weighted, aligned), dim=1)))
        near, far = (_without(padding, conv, squeezed) for conv in (self.near, self.far))
        return _without(padding, self.project, self.activation(near + far + squeezed))


@NECK_REGISTRY.register()
class SARL(nn.Module):
    """Scale-aware relay layer between a backbone and its neck: ``R_l = C_l + γ_l · FEM(FIM(C_l, R_{l+1}))``.

    It works top-down from the highest level, for which ``R_{l+1}`` is the level itself. γ starts at zero, so that the
    neck starts as the identity and pretrained weights keep their meaning. Use it as
    ``FPN(bottom_up=NeckedBackbone(backbone=…, neck=SARL(…)))``.

    The papers show the layers only in figures that are missing from them: they are our reading, see
    docs/papers/sarl.md#fim-and-fem.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        in_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        norm: str = "GN",
        activation: str = "relu",
        use_channel: bool = True,
        use_spatial: bool = True,
        channel_max: bool = True,
        top_down: bool = True,
    ) -> None:
        """Build a block for each level.

        Args:
            in_channels: channels of the levels.
            in_features: names of the levels, finest first; other feature maps are passed on unchanged.
            norm: of Detectron2: ``GN`` (32 groups), ``BN``, …, or ``YOLO``: batch norm with ε 10⁻³ and momentum 0.03.
            activation: ``relu`` or ``silu``.
            use_channel: use channel attention.
            use_spatial: use spatial attention.
            channel_max: pool the maximum for channel attention beside the mean (the default, as the paper); False pools
                the mean alone, which does not grow with the image as a maximum does.
            top_down: read the next higher level after it was relayed; False reads the backbone's.

        Raises:
            ValueError: ``in_features`` and ``in_channels`` differ in length, or an unknown activation.
        """
        super().__init__()
        if not in_features or len(in_features) != len(in_channels) or len(set(in_features)) != len(in_features):
            raise ValueError(
                f"SARL: {len(in_features)} in_features {list(in_features)} and {len(in_channels)} in_channels "
                f"{list(in_channels)}; give as many of each, and each level once."
            )
        if activation not in _ACTIVATIONS:
            raise ValueError(f"SARL: unknown activation '{activation}'. {did_you_mean(activation, _ACTIVATIONS)}")
        self.in_features = tuple(in_features)
        self.top_down = top_down
        self.fim, self.fem, self.scale = nn.ModuleDict(), nn.ModuleDict(), nn.ParameterDict()
        for index, (name, count) in enumerate(zip(in_features, in_channels, strict=True)):
            self.fim[name] = FIM(
                count,
                in_channels[min(index + 1, len(in_channels) - 1)],
                norm=norm,
                activation=activation,
                use_channel=use_channel,
                use_spatial=use_spatial,
                channel_max=channel_max,
            )
            self.fem[name] = FEM(count, norm=norm, activation=activation)
            self.scale[name] = nn.Parameter(torch.zeros(count, 1, 1))

    def output_shape(self, input_shape: dict[str, ShapeSpec]) -> dict[str, ShapeSpec]:
        """Return channels and stride of each output: those of the input.

        Raises:
            ValueError: a level is missing or has other channels.
        """
        check_levels("SARL", {name: len(scale) for name, scale in self.scale.items()}, input_shape)
        return input_shape

    def forward(self, features: dict[str, Tensor], padding: Tensor | None = None) -> dict[str, Tensor]:
        """Return the feature maps with the levels relayed; the input dict is not modified.

        Args:
            features: (B, c_l, H_l, W_l) by name.
            padding: (B, 1, H, W) of the batch of images, True in the padding; None without padding.

        Raises:
            KeyError: a level is missing; says which exist.
        """
        for name in self.in_features:
            if name not in features:
                raise KeyError(f"SARL: no level '{name}'. {did_you_mean(name, features)}")
        result = dict(features)
        high = features[self.in_features[-1]]
        for name in reversed(self.in_features):
            weighted, aligned = self.fim[name](features[name], high, padding)
            result[name] = features[name] + self.scale[name] * self.fem[name](weighted, aligned, padding)
            high = result[name] if self.top_down else features[name]
        return result
