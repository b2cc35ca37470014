"""ARB of RS-TinyNet: a second branch from the image, in training only (docs/papers/rs_tinynet.md#arb)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import C3k2, ConvBN
from d2tiny.utils.registry import NECK_REGISTRY

__all__ = ["ARB", "CBFuse", "CBLinear", "couple", "uncouple"]


def couple(
    x1: Tensor, x2: Tensor, f: Callable[[Tensor], Tensor], g: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Compute the reversible coupling of eq. 10, ``y1 = x1 + F(x2)``, ``y2 = x2 + G(y1)``; :class:`ARB` does not."""
    y1 = x1 + f(x2)
    return y1, x2 + g(y1)


def uncouple(
    y1: Tensor, y2: Tensor, f: Callable[[Tensor], Tensor], g: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Invert :func:`couple` (eq. 11): ``x2 = y2 − G(y1)``, ``x1 = y1 − F(x2)``."""
    x2 = y2 - g(y1)
    return y1 - f(x2), x2


class CBLinear(nn.Module):
    """A 1×1 convolution whose output channels are split among several levels of the branch."""

    def __init__(self, inputs: int, outputs: Sequence[int]) -> None:
        super().__init__()
        self.outputs = list(outputs)
        self.conv = nn.Conv2d(inputs, sum(outputs), 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (B, C, H, W) to several (B, C_i, H, W) with the channels of ``outputs``."""
        return self.conv(x).split(self.outputs, dim=1)


class CBFuse(nn.Module):
    """The sum of a feature map and others, which are resized to it (nearest)."""

    def forward(self, x: Tensor, others: Sequence[Tensor]) -> Tensor:
        """Add maps (B, C, H_i, W_i) to ``x`` (B, C, H, W)."""
        resized = [F.interpolate(o, size=x.shape[-2:], mode="nearest") for o in others]
        return torch.stack((x, *resized)).sum(dim=0)


@NECK_REGISTRY.register()
class ARB(nn.Module):
    """Auxiliary reversible branch: a small backbone on the image to which features of the main one are added.

    Level ``a3`` receives features of c3, c4 and c5, ``a4`` of c4 and c5, ``a5`` of c5. An auxiliary head is trained on
    them like the main one, with a quarter of the weight; prediction needs neither.

    Nothing here is reversible: the paper's coupling (eq. 10, 11) is :func:`couple`, which no training calls; the paper
    relaxes it and names no layers. Ours are those of YOLOv9's auxiliary branch on YOLO11's stages (9,886,272 parameters
    for m, the paper has 10,235,264).
    """

    out_features = ("a3", "a4", "a5")
    strides = (8, 16, 32)

    def __init__(
        self,
        *,
        in_channels: Sequence[int] = (512, 512, 512),
        stem_channels: Sequence[int] = (64, 128, 256),
        in_features: Sequence[str] = ("c3", "c4", "c5"),
        repeats: int = 1,
        c3k: bool = True,
    ) -> None:
        """Build the branch.

        Args:
            in_channels: channels of the backbone's levels, which the branch's levels have too.
            stem_channels: of the first three layers (as the backbone's first two convolutions and c2).
            in_features: names of the backbone's levels, strides 8, 16, 32.
            repeats: number of blocks in each layer.
            c3k: see :class:`~d2tiny.layers.C3k2`; the two coarsest levels always have it.

        Raises:
            ValueError: ``in_channels``, ``stem_channels`` or ``in_features`` do not have three elements.
        """
        super().__init__()
        if not len(in_channels) == len(stem_channels) == len(in_features) == 3:
            raise ValueError(
                "ARB: needs three in_channels, stem_channels and in_features, got "
                f"{in_channels}, {stem_channels}, {in_features}."
            )
        self.in_features, self.in_channels, self.out_channels = tuple(in_features), list(in_channels), list(in_channels)
        first, second, third = stem_channels
        c3, c4, c5 = in_channels
        self.share = nn.ModuleList((CBLinear(c3, [third]), CBLinear(c4, [third, c3]), CBLinear(c5, [third, c3, c4])))
        self.stem = nn.Sequential(
            ConvBN(3, first, 3, 2),
            ConvBN(first, second, 3, 2),
            C3k2(second, third, repeats, c3k=c3k, expansion=0.25),
        )
        self.reduce = nn.ModuleList((ConvBN(third, third, 3, 2), ConvBN(c3, c3, 3, 2), ConvBN(c4, c4, 3, 2)))
        self.blocks = nn.ModuleList(
            (
                C3k2(third, c3, repeats, c3k=c3k, expansion=0.25),
                C3k2(c3, c4, repeats, c3k=True),
                C3k2(c4, c5, repeats, c3k=True),
            )
        )
        self.fuse = CBFuse()

    def forward(self, image: Tensor, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map (B, 3, H, W) and the backbone's feature maps to a3, a4, a5, (B, C, H / stride, W / stride)."""
        shared = [share(features[name]) for name, share in zip(self.in_features, self.share, strict=True)]
        x, result = self.stem(image), {}
        for i, (name, reduce, block) in enumerate(zip(self.out_features, self.reduce, self.blocks, strict=True)):
            x = block(self.fuse(reduce(x), [maps[i] for maps in shared[i:]]))
            result[name] = x
        return result
