"""Encoder of Deformable DETR: every token of every level attends to points on all levels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2tiny.layers.deform_attn import MSDeformAttn
from d2tiny.layers.mlp import FeedForward
from d2tiny.modeling.transformer.sparsity import TokenSparsity, token_index
from d2tiny.modeling.transformer.tokens import Tokens
from d2tiny.utils.tracing import is_traced

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

    def forward(self, x: Tensor, tokens: Tokens, reference_points: Tensor, index: Tensor | None = None) -> Tensor:
        """Update the tokens of an ``index`` (B, Q) alone, with S in unused entries; None updates all.

        A mask (B, S) instead of places computes all tokens and keeps those of the mask.
        """
        if index is None:
            return self._update(x, tokens.pos_embed, reference_points, x, tokens)
        if index.dtype == torch.bool:
            return torch.where(index[..., None], self._update(x, tokens.pos_embed, reference_points, x, tokens), x)
        # unused entries read and write one more token, which is dropped
        extended = torch.cat((x, x.new_zeros(len(x), 1, x.shape[2])), dim=1)
        places = index[..., None].expand(-1, -1, x.shape[2])
        known = index.clamp(max=x.shape[1] - 1)
        position = tokens.pos_embed.gather(1, known[..., None].expand_as(places))
        points = reference_points.gather(1, known[..., None, None].expand(-1, -1, *reference_points.shape[2:]))
        updated = self._update(extended.gather(1, places), position, points, x, tokens)
        # the dense path keeps the type of its last norm, float32 under autocast
        return extended.to(updated.dtype).scatter(1, places, updated)[:, :-1]

    def _update(self, x: Tensor, position: Tensor, points: Tensor, value: Tensor, tokens: Tokens) -> Tensor:
        attended = self.attention(x + position, points, value, tokens.spatial_shapes, tokens.padding)
        updated: Tensor = self.feed_forward(self.norm(x + self.dropout(attended)))
        return updated


class DeformableEncoder(nn.Module):
    """Stack of post-norm layers of multi-scale deformable self-attention and a feed-forward network.

    With ``sparsity``, only tokens that a density of objects chooses are updated; all tokens stay values.
    """

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
        sparsity: TokenSparsity | None = None,
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
            sparsity: chooses the tokens that are updated; None updates all.
            checkpointing: recompute each layer in the backward pass instead of keeping its activations.

        Raises:
            ValueError: ``num_heads`` does not divide ``embed_dim``, there are no levels or points, or a sparsity that
                leaves a level without updates.
        """
        super().__init__()
        if sparsity is not None and (sparsity.dense_from >= num_levels or num_layers % sparsity.finest_every):
            raise ValueError(
                f"DeformableEncoder: sparsity.dense_from={sparsity.dense_from} must be below num_levels={num_levels}, "
                f"and sparsity.finest_every={sparsity.finest_every} must divide num_layers={num_layers}."
            )
        self.num_levels = num_levels
        shape = (embed_dim, num_heads, num_levels, num_points, feedforward_dim, dropout)
        self.layers = nn.ModuleList(_EncoderLayer(*shape) for _ in range(num_layers))
        self.sparsity, self.checkpointing = sparsity, checkpointing

    def forward(self, tokens: Tokens, updated: Tensor | None = None) -> Tensor:
        """Return the encoder's output ("memory"), (B, S, C); tokens out of ``updated`` (B, S) stay as they are."""
        x, reference_points = tokens.features, tokens.per_level(tokens.reference_points)
        every, coarse = self._indices(tokens, updated)
        for i, layer in enumerate(self.layers):
            index = every if self.sparsity is None or self.sparsity.updates_finest(i) else coarse
            x = run_layer(layer, self.checkpointing and self.training, x, tokens, reference_points, index)
        return x

    def _indices(self, tokens: Tokens, updated: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the places of all chosen tokens, and of those coarser than the finest level; None for all tokens.

        A graph that is recorded cannot have as many places as a density asks for: it gets masks instead.
        """
        if updated is None or self.sparsity is None:
            return None, None
        coarse = updated & (tokens.level_index > 0)
        if is_traced():
            return updated, coarse
        every = None if bool(updated.all()) else token_index(updated)
        return every, token_index(coarse) if self.sparsity.finest_every > 1 else None


def run_layer(layer: nn.Module, checkpointing: bool, *args: Any) -> Any:
    """Call a layer; with ``checkpointing`` its activations are recomputed in the backward pass."""
    return checkpoint(layer, *args, use_reentrant=False) if checkpointing else layer(*args)
