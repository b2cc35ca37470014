"""Cross-stage partial (CSP) blocks of the YOLO family (Wang et al., CSPNet, 2020), SPP and Focus."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.conv import ConvBN

__all__ = ["SPP", "Bottleneck", "C3k2", "CSPLayer", "Focus"]


class Bottleneck(nn.Module):
    """Two convolutions with a residual connection if the numbers of input and output channels are equal."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernels: tuple[int, int],
        expansion: float = 1.0,
        shortcut: bool = True,
    ) -> None:
        """Create the block.

        Args:
            in_channels: number of input channels.
            out_channels: number of output channels.
            kernels: kernel sizes of the two convolutions.
            expansion: hidden channels as a fraction of ``out_channels``.
            shortcut: False omits the residual connection.
        """
        super().__init__()
        hidden = int(out_channels * expansion)
        self.first = ConvBN(in_channels, hidden, kernels[0])
        self.second = ConvBN(hidden, out_channels, kernels[1])
        self.residual = shortcut and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        out = self.second(self.first(x))
        return x + out if self.residual else out


class CSPLayer(nn.Module):
    """CSP block: C3 of YOLOv5, CSPLayer of YOLOX, C3k of YOLO11. One half of the channels bypasses the bottlenecks."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        *,
        shortcut: bool = True,
        kernels: tuple[int, int] = (1, 3),
    ) -> None:
        """Create the block.

        Args:
            in_channels: number of input channels.
            out_channels: number of output channels.
            num_blocks: number of bottlenecks.
            shortcut: whether bottlenecks have residual connections.
            kernels: kernel sizes of the two convolutions of a bottleneck.
        """
        super().__init__()
        hidden = out_channels // 2
        self.main = ConvBN(in_channels, hidden)
        self.aside = ConvBN(in_channels, hidden)
        self.blocks = nn.Sequential(
            *(Bottleneck(hidden, hidden, kernels=kernels, shortcut=shortcut) for _ in range(num_blocks))
        )
        self.join = ConvBN(2 * hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        return self.join(torch.cat((self.blocks(self.main(x)), self.aside(x)), dim=1))


class C3k2(nn.Module):
    """CSP block of YOLO11: concatenates the outputs of all inner blocks, each of which reads the previous one."""

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, *, c3k: bool = False, expansion: float = 0.5
    ) -> None:
        """Create the block.

        Args:
            in_channels: number of input channels.
            out_channels: number of output channels.
            num_blocks: number of inner blocks.
            c3k: inner blocks are a :class:`CSPLayer` with two 3×3 bottlenecks instead of one bottleneck.
            expansion: channels of an inner block as a fraction of ``out_channels``.
        """
        super().__init__()
        self.width = int(out_channels * expansion)
        self.enter = ConvBN(in_channels, 2 * self.width)
        self.blocks = nn.ModuleList(
            CSPLayer(self.width, self.width, 2, kernels=(3, 3))
            if c3k
            else Bottleneck(self.width, self.width, kernels=(3, 3), expansion=0.5)
            for _ in range(num_blocks)
        )
        self.join = ConvBN((2 + num_blocks) * self.width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        parts = list(self.enter(x).split(self.width, dim=1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.join(torch.cat(parts, dim=1))


class SPP(nn.Module):
    """Spatial pyramid pooling: max pooling of sizes 5, 9 and 13, concatenated with the input.

    Consecutive poolings of size 5 have these sizes, so SPPF of YOLOv5 computes the same.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Create the block with ``in_channels // 2`` hidden channels."""
        super().__init__()
        self.enter = ConvBN(in_channels, in_channels // 2)
        self.join = ConvBN(in_channels // 2 * 4, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, stride=1, padding=2))
        return self.join(torch.cat(parts, dim=1))


class Focus(nn.Module):
    """Stem of YOLOX: space to depth with factor 2, then a 3×3 convolution.

    The four pixels of a 2×2 block become channels in the order top left, bottom left, top right, bottom right.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Create the stem."""
        super().__init__()
        self.conv = ConvBN(4 * in_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, 2H, 2W) to (B, C', H, W)."""
        corners = (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2])
        return self.conv(torch.cat(corners, dim=1))
