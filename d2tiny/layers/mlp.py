"""Multilayer perceptrons."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MLP", "FeedForward"]


class MLP(nn.Module):
    """Linear layers with a ReLU after each but the last."""

    def __init__(self, *widths: int) -> None:
        """Set the widths, from input to output."""
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., first width) to (..., last width)."""
        for i, layer in enumerate(self.layers):
            x = layer(x) if i == len(self.layers) - 1 else F.relu(layer(x))
        return x


class FeedForward(nn.Module):
    """Feed-forward network of a post-norm transformer layer: ``norm(x + dropout(W_2 dropout(relu(W_1 x))))``."""

    def __init__(self, embed_dim: int, feedforward_dim: int, dropout: float = 0.0) -> None:
        """Set the widths of the input and of the hidden layer, and the dropout probability."""
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(embed_dim, feedforward_dim),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(feedforward_dim, embed_dim),
        )
        for layer in self.inner:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, embed_dim) to the same shape."""
        return self.norm(x + self.dropout(self.inner(x)))
