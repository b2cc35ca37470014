"""Blocks of the YOLO family that send part of the channels past the bottlenecks (Wang et al., CSPNet, 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.conv import ConvBN

__all__ = ["SPP", "Bottleneck", "C3k2", "CSPLayer", "Focus"]


class Bottleneck(nn.Module):
    """Two convolutions, and the input added where its channels are those of the output."""

    def __init__(
        self, inputs: int, outputs: int, *, kernels: tuple[int, int], expansion: float = 1.0, shortcut: bool = True
    ) -> None:
        super().__init__()
        hidden = int(outputs * expansion)
        self.first = ConvBN(inputs, hidden, kernels[0])
        self.second = ConvBN(hidden, outputs, kernels[1])
        self.adds = shortcut and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        out = self.second(self.first(x))
        return x + out if self.adds else out


class CSPLayer(nn.Module):
    """Half of the channels pass ``count`` bottlenecks, half pass by: C3 of YOLOv5, CSPLayer of YOLOX, C3k of YOLO11."""

    def __init__(
        self, inputs: int, outputs: int, count: int, *, shortcut: bool = True, kernels: tuple[int, int] = (1, 3)
    ) -> None:
        super().__init__()
        hidden = outputs // 2
        self.main = ConvBN(inputs, hidden)
        self.aside = ConvBN(inputs, hidden)
        self.blocks = nn.Sequential(
            *(Bottleneck(hidden, hidden, kernels=kernels, shortcut=shortcut) for _ in range(count))
        )
        self.join = ConvBN(2 * hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        return self.join(torch.cat((self.blocks(self.main(x)), self.aside(x)), dim=1))


class C3k2(nn.Module):
    """Block of YOLO11: each of ``count`` blocks reads the one before, and all their outputs are joined."""

    def __init__(self, inputs: int, outputs: int, count: int, *, c3k: bool = False, expansion: float = 0.5) -> None:
        """Set the shape.

        Args:
            inputs: channels in.
            outputs: channels out.
            count: number of blocks.
            c3k: blocks are :class:`CSPLayer` of two 3×3 bottlenecks instead of one bottleneck.
            expansion: channels of a block as a share of ``outputs``.
        """
        super().__init__()
        self.width = int(outputs * expansion)
        self.enter = ConvBN(inputs, 2 * self.width)
        self.blocks = nn.ModuleList(
            CSPLayer(self.width, self.width, 2, kernels=(3, 3))
            if c3k
            else Bottleneck(self.width, self.width, kernels=(3, 3), expansion=0.5)
            for _ in range(count)
        )
        self.join = ConvBN((2 + count) * self.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        parts = list(self.enter(x).split(self.width, dim=1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.join(torch.cat(parts, dim=1))


class SPP(nn.Module):
    """Pools over 5, 9 and 13 cells, joined. Three pools of 5 in a row are the same three (so SPPF is SPP)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.enter = ConvBN(inputs, inputs // 2)
        self.join = ConvBN(inputs // 2 * 4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, stride=1, padding=2))
        return self.join(torch.cat(parts, dim=1))


class Focus(nn.Module):
    """Stem of YOLOX: each 2×2 cells become four times the channels (top left, bottom left, top right, bottom right)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvBN(4 * inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, 2H, 2W) to (B, C', H, W)."""
        corners = (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2])
        return self.conv(torch.cat(corners, dim=1))
