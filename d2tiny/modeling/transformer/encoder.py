"""Deformable encoder: every cell of every level looks at places of all levels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2tiny.layers.deform_attn import MSDeformAttn
from d2tiny.layers.mlp import FeedForward
from d2tiny.modeling.transformer.tokens import Tokens

__all__ = ["DeformableEncoder"]


class _Layer(nn.Module):
    def __init__(self, channels: int, heads: int, levels: int, points: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = MSDeformAttn(channels=channels, heads=heads, levels=levels, points=points)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, hidden, dropout)

    def forward(self, x: Tensor, tokens: Tokens, reference: Tensor) -> Tensor:
        seen = self.attention(x + tokens.position, reference, x, tokens.sizes, tokens.padding)
        return self.feed_forward(self.norm(x + self.dropout(seen)))


class DeformableEncoder(nn.Module):
    """Layers of multi-scale deformable self-attention with post-norm."""

    def __init__(
        self,
        *,
        channels: int = 256,
        layers: int = 6,
        heads: int = 8,
        levels: int = 4,
        points: int = 4,
        hidden: int = 2048,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        """Set the shape.

        Args:
            channels: C.
            layers: number of layers.
            heads: of attention.
            levels: L.
            points: P places for each head and level.
            hidden: width of the feed-forward networks.
            dropout: probability.
            checkpointing: compute layers again in the backward pass instead of keeping what they made.
        """
        super().__init__()
        self.levels = levels
        self.layers = nn.ModuleList(_Layer(channels, heads, levels, points, hidden, dropout) for _ in range(layers))
        self.checkpointing = checkpointing

    def forward(self, tokens: Tokens) -> Tensor:
        """Map the tokens' features to (B, S, C)."""
        x, reference = tokens.features, tokens.places(tokens.centres)
        for layer in self.layers:
            x = run_layer(layer, self.checkpointing and self.training, x, tokens, reference)
        return x


def run_layer(layer: nn.Module, again: bool, *args: Any) -> Any:
    """Call a layer, perhaps without keeping what it makes."""
    return checkpoint(layer, *args, use_reentrant=False) if again else layer(*args)
