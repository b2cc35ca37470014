"""DINO's decoder: queries are boxes that every layer refines (Zhang et al., ICLR 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.deform_attn import MSDeformAttn
from d2tiny.layers.mlp import MLP, FeedForward
from d2tiny.layers.position import box_position, inverse_sigmoid
from d2tiny.modeling.transformer.encoder import run_layer
from d2tiny.modeling.transformer.tokens import Tokens
from d2tiny.utils.precision import without_autocast

__all__ = ["DINODecoder", "Decoded", "QueryAttention"]


@dataclass(frozen=True)
class Decoded:
    """What the layers say.

    Attributes:
        logits: (layers, B, K, C) of the classes.
        boxes: (layers, B, K, 4) cx, cy, w, h in [0, 1].
    """

    logits: Tensor
    boxes: Tensor


class QueryAttention(nn.MultiheadAttention):
    """Self-attention of queries, with one mask of floats for all layers and heads.

    PyTorch's own makes a mask of floats for every head and layer, and keeps it for the gradient.
    """

    def forward(self, query: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:  # type: ignore[override]
        """Attend.

        Args:
            query: (B, K, C), also the keys.
            value: (B, K, C).
            mask: (B or 1, 1, K, K) added to the logits, or None.
        """
        channels, weight, bias = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        both = F.linear(query, weight[: 2 * channels], bias[: 2 * channels])
        parts = (*both.chunk(2, dim=-1), F.linear(value, weight[2 * channels :], bias[2 * channels :]))
        q, k, v = (x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in parts)
        mask = None if mask is None else mask.to(q.dtype)
        seen = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        out: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return out


class _Layer(nn.Module):
    def __init__(self, channels: int, heads: int, levels: int, points: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = QueryAttention(channels, heads, dropout=dropout, batch_first=True)
        self.cross_attention = MSDeformAttn(channels=channels, heads=heads, levels=levels, points=points)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = FeedForward(channels, hidden, dropout)

    def forward(
        self, x: Tensor, position: Tensor, reference: Tensor, memory: Tensor, tokens: Tokens, mask: Tensor | None
    ) -> Tensor:
        x = self.norms[0](x + self.dropout(self.self_attention(x + position, x, mask)))
        seen = self.cross_attention(x + position, reference, memory, tokens.sizes, tokens.padding)
        x = self.norms[1](x + self.dropout(seen))
        out: Tensor = self.feed_forward(x)
        return out


class DINODecoder(nn.Module):
    """Layers of self-attention, deformable attention at the queries' boxes, and refinement of the boxes.

    **Look forward twice**: layer l moves the boxes that it gets by its own head; the moved boxes are handed on without
    gradient, but layer l + 1's prediction is built on them with gradient, so that its loss reaches layer l's head too.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        channels: int = 256,
        layers: int = 6,
        heads: int = 8,
        levels: int = 4,
        points: int = 4,
        hidden: int = 2048,
        dropout: float = 0.0,
        shared_heads: bool = True,
        look_forward_twice: bool = True,
        checkpointing: bool = False,
    ) -> None:
        """Set the shape.

        Args:
            num_classes: of the class head.
            channels: C.
            layers: number of layers.
            heads: of attention.
            levels: L of the memory.
            points: P places for each head and level.
            hidden: width of the feed-forward networks.
            dropout: probability.
            shared_heads: one class and one box head for all layers, or one of each for every layer.
            look_forward_twice: see above.
            checkpointing: compute layers again in the backward pass.

        Raises:
            ValueError: no layer, or heads that do not divide the channels.
        """
        super().__init__()
        if layers < 1 or channels % heads:
            raise ValueError(
                f"DINODecoder: need layers >= 1 and heads that divide the channels: {layers}, {heads}, {channels}."
            )
        self.num_classes, self.levels = num_classes, levels
        self.layers = nn.ModuleList(_Layer(channels, heads, levels, points, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.position = MLP(2 * channels, channels, channels)
        count = 1 if shared_heads else layers
        self.class_heads = nn.ModuleList(class_head(channels, num_classes) for _ in range(count))
        self.box_heads = nn.ModuleList(box_head(channels) for _ in range(count))
        self.look_forward_twice, self.checkpointing = look_forward_twice, checkpointing
        self.channels, self.heads = channels, heads

    def forward(
        self, content: Tensor, reference: Tensor, memory: Tensor, tokens: Tokens, blocked: Tensor | None
    ) -> Decoded:
        """Decode.

        Args:
            content: (B, K, C).
            reference: (B, K, 4) logits of boxes in shares of the image.
            memory: (B, S, C) of the encoder.
            tokens: of the memory.
            blocked: (B, K, K) or (K, K) boolean, True where a query must not look at another.
        """
        mask = None
        if blocked is not None:
            device = content.device.type
            half = torch.is_autocast_enabled(device)
            kind = torch.get_autocast_dtype(device) if half else content.dtype
            mask = torch.zeros(blocked.shape, dtype=kind, device=content.device)
            mask = mask.masked_fill_(blocked, -torch.inf).view(-1, 1, *blocked.shape[-2:])
        x = content
        box = reference.float().sigmoid()
        start = box  # what this layer's prediction is built on
        logits, boxes = [], []
        for i, layer in enumerate(self.layers):
            places = tokens.places(box)
            position = self.position(box_position(places[:, :, 0], self.channels // 2).to(x.dtype))
            x = run_layer(layer, self.checkpointing and self.training, x, position, places, memory, tokens, mask)
            h = self.norm(x)
            head = self.box_heads[i % len(self.box_heads)]
            logits.append(self.class_heads[i % len(self.class_heads)](h))
            with without_autocast(x.device):
                boxes.append((head(h.float()) + inverse_sigmoid(start)).sigmoid())
                moved = (head(x.float()) + inverse_sigmoid(box)).sigmoid()
            box = moved.detach()
            start = moved if self.look_forward_twice else box
        return Decoded(torch.stack(logits).float(), torch.stack(boxes))


def class_head(channels: int, num_classes: int) -> nn.Linear:
    """A linear layer that says 0.01 for every class at first."""
    layer = nn.Linear(channels, num_classes)
    nn.init.constant_(layer.bias, -4.59511985013459)  # −ln 99
    return layer


def box_head(channels: int) -> MLP:
    """Three layers whose last is zero at first: boxes stay where they are."""
    mlp = MLP(channels, channels, channels, 4)
    last = mlp.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return mlp
