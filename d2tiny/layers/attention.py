"""Self-attention over the cells of a feature map, as in YOLO11 after the last stage of the backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.conv import ConvBN

__all__ = ["C2PSA", "MapAttention", "PSABlock"]


class MapAttention(nn.Module):
    """Multi-head self-attention over all H·W cells; keys and queries have half as many channels as values."""

    def __init__(self, channels: int) -> None:
        """Set the number of channels; there is one head for every 64 of them, at least one.

        Raises:
            ValueError: twice the number of heads does not divide the channels.
        """
        super().__init__()
        self.heads = max(channels // 64, 1)
        if channels % (2 * self.heads):
            raise ValueError(
                f"MapAttention: {channels} channels cannot be shared by {self.heads} heads; change the width."
            )
        self.width = channels // self.heads
        self.qkv = ConvBN(channels, 2 * channels, with_activation=False)
        self.position = ConvBN(channels, channels, 3, groups=channels, with_activation=False)
        self.project = ConvBN(channels, channels, with_activation=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(x).view(batch, self.heads, 2 * self.width, height * width)
        q, k, v = qkv.split((self.width // 2, self.width // 2, self.width), dim=2)
        out = F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
        shape = (batch, channels, height, width)
        return self.project(out.reshape(shape) + self.position(v.reshape(shape)))


class PSABlock(nn.Module):
    """Self-attention and a feed-forward network of convolutions, each with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = MapAttention(channels)
        self.feed_forward = nn.Sequential(
            ConvBN(channels, 2 * channels), ConvBN(2 * channels, channels, with_activation=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class C2PSA(nn.Module):
    """Cross-stage block: half of the channels go through ``count`` :class:`PSABlock`, the others past them."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter = ConvBN(channels, 2 * half)
        self.blocks = nn.Sequential(*(PSABlock(half) for _ in range(count)))
        self.join = ConvBN(2 * half, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        skipped, main = self.enter(x).chunk(2, dim=1)
        return self.join(torch.cat((skipped, self.blocks(main)), dim=1))
