"""Encoder of Deformable DETR: every token of every level attends to points on all levels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2tiny.layers.deform_attn import MSDeformAttn
from d2tiny.layers.mlp import FeedForward
from d2tiny.modeling.transformer.tokens import Tokens

__all__ = ["DeformableEncoder"]


class _EncoderLayer(nn.Module):
    def __init__(
        self, embed_dim: int, num_heads: int, num_levels: int, num_points: int, feedforward_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention = MSDeformAttn(
            embed_dim=embed_dim, num_heads=num_heads, num_levels=num_levels, num_points=num_points
        )
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(embed_dim)
        self.feed_forward = FeedForward(embed_dim, feedforward_dim, dropout)

    def forward(self, x: Tensor, tokens: Tokens, reference_points: Tensor) -> Tensor:
        query = x + tokens.pos_embed
        attended = self.attention(query, reference_points, x, tokens.spatial_shapes, tokens.padding)
        return self.feed_forward(self.norm(x + self.dropout(attended)))


class DeformableEncoder(nn.Module):
    """Stack of post-norm layers of multi-scale deformable self-attention and a feed-forward network."""

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        feedforward_dim: int = 2048,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        """Build the layers.

        Args:
            embed_dim: C, channels of the tokens.
            num_layers: number of layers.
            num_heads: M, heads of the attention.
            num_levels: L, levels of the feature pyramid.
            num_points: P, sampling points of each head and level.
            feedforward_dim: hidden width of the feed-forward networks.
            dropout: probability.
            checkpointing: recompute each layer in the backward pass instead of keeping its activations.

        Raises:
            ValueError: ``num_heads`` does not divide ``embed_dim``, or there are no levels or points.
        """
        super().__init__()
        self.num_levels = num_levels
        shape = (embed_dim, num_heads, num_levels, num_points, feedforward_dim, dropout)
        self.layers = nn.ModuleList(_EncoderLayer(*shape) for _ in range(num_layers))
        self.checkpointing = checkpointing

    def forward(self, tokens: Tokens) -> Tensor:
        """Return the encoder's output ("memory"), (B, S, C)."""
        x, reference_points = tokens.features, tokens.per_level(tokens.reference_points)
        for layer in self.layers:
            x = run_layer(layer, self.checkpointing and self.training, x, tokens, reference_points)
        return x


def run_layer(layer: nn.Module, checkpointing: bool, *args: Any) -> Any:
    """Call a layer; with ``checkpointing`` its activations are recomputed in the backward pass."""
    return checkpoint(layer, *args, use_reentrant=False) if checkpointing else layer(*args)
