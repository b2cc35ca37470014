"""DINO's decoder: queries with boxes that every layer refines (Zhang et al., ICLR 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.deform_attn import MSDeformAttn
from d2tiny.layers.mlp import MLP, FeedForward
from d2tiny.layers.position import box_sine_embedding
from d2tiny.modeling.contracts import QueryPredictions
from d2tiny.modeling.transformer.box_deltas import apply_deltas, check_delta_unit
from d2tiny.modeling.transformer.encoder import run_layer
from d2tiny.modeling.transformer.tokens import Tokens
from d2tiny.utils.precision import without_autocast

__all__ = ["DINODecoder", "DecoderOutput", "QueryAttention"]


@dataclass(frozen=True)
class DecoderOutput:
    """Predictions of all decoder layers, first layer first.

    Attributes:
        pred_logits: (num_layers, B, Q, K) class logits.
        pred_boxes: (num_layers, B, Q, 4) cx, cy, w, h in shares of the image.
    """

    pred_logits: Tensor
    pred_boxes: Tensor

    @property
    def layers(self) -> list[QueryPredictions]:
        """Predictions of each layer."""
        return [QueryPredictions(*layer) for layer in zip(self.pred_logits, self.pred_boxes, strict=True)]

    def split(self, num_first: int) -> tuple[DecoderOutput, DecoderOutput]:
        """Separate the first queries, those of denoising, from the others."""
        logits, boxes = self.pred_logits, self.pred_boxes
        first = DecoderOutput(logits[:, :, :num_first], boxes[:, :, :num_first])
        return first, DecoderOutput(logits[:, :, num_first:], boxes[:, :, num_first:])


class QueryAttention(nn.MultiheadAttention):
    """Self-attention of queries that takes one additive mask for all layers and heads.

    PyTorch's own turns a boolean mask into one of floats for every head and layer, and keeps each for the gradient.
    """

    def forward(  # type: ignore[override]
        self, query: Tensor, value: Tensor, attn_mask: Tensor | None
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C), also used as the keys.
            value: (B, Q, C).
            attn_mask: (B or 1, 1, Q, Q), added to the attention logits; None without a mask.

        Returns:
            (B, Q, C).
        """
        channels, weight, bias = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        query_key = F.linear(query, weight[: 2 * channels], bias[: 2 * channels])
        parts = (*query_key.chunk(2, dim=-1), F.linear(value, weight[2 * channels :], bias[2 * channels :]))
        q, k, v = (x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in parts)
        attn_mask = None if attn_mask is None else attn_mask.to(q.dtype)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask, self.dropout if self.training else 0.0)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class _DecoderLayer(nn.Module):
    def __init__(
        self, embed_dim: int, num_heads: int, num_levels: int, num_points: int, feedforward_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = QueryAttention(embed_dim, num_heads, dropout=dropout, batch_first=True)
        nn.init.xavier_uniform_(self.self_attention.out_proj.weight)
        self.cross_attention = MSDeformAttn(
            embed_dim=embed_dim, num_heads=num_heads, num_levels=num_levels, num_points=num_points
        )
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = FeedForward(embed_dim, feedforward_dim, dropout)

    def forward(
        self,
        query: Tensor,
        query_pos: Tensor,
        reference_points: Tensor,
        memory: Tensor,
        tokens: Tokens,
        attn_mask: Tensor | None,
    ) -> Tensor:
        attended = self.self_attention(query + query_pos, query, attn_mask)
        query = self.norms[0](query + self.dropout(attended))
        levels = (tokens.spatial_shapes, tokens.padding)
        attended = self.cross_attention(query + query_pos, reference_points, memory, *levels)
        query = self.norms[1](query + self.dropout(attended))
        out: Tensor = self.feed_forward(query)
        return out


class DINODecoder(nn.Module):
    """Layers of self-attention, deformable attention around the queries' boxes, and refinement of the boxes.

    **Look forward twice** (section 3.5 of the paper): layer l refines the boxes that it receives by its own head. The
    refined boxes are passed on without gradient as reference of layer l + 1, but the prediction of layer l + 1 is built
    on them with gradient, so that its loss also reaches the head of layer l.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        feedforward_dim: int = 2048,
        dropout: float = 0.0,
        shared_heads: bool = True,
        look_forward_twice: bool = True,
        delta_unit: str | None = None,
        checkpointing: bool = False,
    ) -> None:
        """Build layers and heads.

        Args:
            num_classes: K of the class heads.
            embed_dim: C, channels of queries and memory.
            num_layers: number of layers.
            num_heads: M, heads of both attentions.
            num_levels: L, levels of the memory.
            num_points: P, sampling points of each head and level.
            feedforward_dim: hidden width of the feed-forward networks.
            dropout: probability.
            shared_heads: one class head and one box head for all layers (official code), or a pair for each layer.
            look_forward_twice: see above; False is the refinement of Deformable DETR.
            delta_unit: ``box`` to refine boxes in units of their sides; None for DINO's logits of shares of the image
                (:func:`~d2tiny.modeling.transformer.box_deltas.apply_deltas`).
            checkpointing: recompute each layer in the backward pass instead of keeping its activations.

        Raises:
            ValueError: no layer, ``num_heads`` does not divide ``embed_dim``, or an unknown ``delta_unit``.
        """
        super().__init__()
        check_delta_unit("DINODecoder", delta_unit)
        if num_layers < 1 or embed_dim % num_heads:
            raise ValueError(
                "DINODecoder: num_layers must be at least 1 and num_heads must divide embed_dim; got "
                f"num_layers={num_layers}, num_heads={num_heads}, embed_dim={embed_dim}."
            )
        self.num_classes, self.num_levels = num_classes, num_levels
        shape = (embed_dim, num_heads, num_levels, num_points, feedforward_dim, dropout)
        self.layers = nn.ModuleList(_DecoderLayer(*shape) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)
        self.ref_point_head = MLP(2 * embed_dim, embed_dim, embed_dim)
        for linear in self.ref_point_head.layers:
            assert isinstance(linear, nn.Linear)
            nn.init.xavier_uniform_(linear.weight)
        count = 1 if shared_heads else num_layers
        self.class_heads = nn.ModuleList(class_head(embed_dim, num_classes) for _ in range(count))
        self.box_heads = nn.ModuleList(box_head(embed_dim) for _ in range(count))
        self.look_forward_twice, self.delta_unit, self.checkpointing = look_forward_twice, delta_unit, checkpointing
        self.embed_dim, self.num_heads = embed_dim, num_heads

    def forward(
        self, content: Tensor, reference_boxes: Tensor, memory: Tensor, tokens: Tokens, attn_mask: Tensor | None
    ) -> DecoderOutput:
        """Decode.

        Args:
            content: (B, Q, C) content queries.
            reference_boxes: (B, Q, 4) the queries' boxes cx, cy, w, h in shares of the image.
            memory: (B, S, C), output of the encoder.
            tokens: the encoder's tokens.
            attn_mask: (B, Q, Q) or (Q, Q) boolean, True where a query (row) must not attend to another (column).
        """
        mask = _additive_mask(attn_mask, content)
        query = content
        reference = reference_boxes.float()
        base = reference  # the boxes that this layer's prediction is built on
        logits, boxes = [], []
        for i, layer in enumerate(self.layers):
            points = tokens.per_level(reference)
            # Released DETRs embed shares of the padded map, which depend on the image's batch mates.
            shares = reference if tokens.by_strides else points[:, :, 0]
            query_pos = self.ref_point_head(box_sine_embedding(shares, self.embed_dim // 2).to(query.dtype))
            inputs = (query, query_pos, points, memory, tokens, mask)
            query = run_layer(layer, self.checkpointing and self.training, *inputs)
            output = self.norm(query)
            head = self.box_heads[i % len(self.box_heads)]
            logits.append(self.class_heads[i % len(self.class_heads)](output))
            with without_autocast(query.device):
                boxes.append(apply_deltas(base, head(output.float()), self.delta_unit))
                refined = apply_deltas(reference, head(query.float()), self.delta_unit)
            reference = refined.detach()
            base = refined if self.look_forward_twice else reference
        return DecoderOutput(torch.stack(logits).float(), torch.stack(boxes))


def _additive_mask(attn_mask: Tensor | None, content: Tensor) -> Tensor | None:
    """Turn a boolean mask into (B or 1, 1, Q, Q) of 0 and -∞, in the type in which attention will be computed."""
    if attn_mask is None:
        return None
    device = content.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else content.dtype
    mask = torch.zeros(attn_mask.shape, dtype=dtype, device=content.device)
    return mask.masked_fill_(attn_mask, -torch.inf).view(-1, 1, *attn_mask.shape[-2:])


def class_head(embed_dim: int, num_classes: int) -> nn.Linear:
    """Build a linear class head whose bias gives every class the probability 0.01 (focal loss)."""
    layer = nn.Linear(embed_dim, num_classes)
    nn.init.constant_(layer.bias, -4.59511985013459)  # −ln 99
    return layer


def box_head(embed_dim: int) -> MLP:
    """Build a box head of three layers, the last one zero: at first it leaves reference boxes as they are."""
    mlp = MLP(embed_dim, embed_dim, embed_dim, 4)
    last = mlp.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return mlp
