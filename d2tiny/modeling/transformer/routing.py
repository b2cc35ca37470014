"""Routing-enhanced mixture attention (REM) of ScaleBridge-Det: experts for tiny and for general objects.

Only the abstract of the paper is public; ``docs/papers/scalebridge.md`` describes this reading of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2tiny.layers.masked_norm import masked_norm
from d2tiny.modeling.transformer.experts import FrozenExpert, ValidMasks
from d2tiny.utils.precision import without_autocast

__all__ = ["REM", "RoutingOutput"]


@dataclass(frozen=True)
class RoutingOutput:
    """Decisions of the router, for losses, logs and pictures.

    Attributes:
        routing_weights: L tensors (B, E, H, W), weights π of the E experts, sum 1; 0 for experts that are not selected.
        valid_masks: L tensors (B, 1, H, W) boolean, False for padding cells; None without padding.
        losses: ``loss_balance`` and ``loss_router_z``.
        names: of the E experts.
    """

    routing_weights: list[Tensor]
    valid_masks: ValidMasks
    losses: dict[str, Tensor]
    names: list[str]

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """Return ``expert_<name>`` for each expert: its mean routing weight over the cells of all levels."""
        parts = [pi if m is None else pi * m for pi, m in zip(self.routing_weights, self.valid_masks, strict=True)]
        total = torch.stack([p.sum(dim=(0, 2, 3)) for p in parts]).sum(dim=0)
        return {f"expert_{n}": v for n, v in zip(self.names, (total / total.sum()).tolist(), strict=True)}


class REM(nn.Module):
    """Mixture of experts, fused by attention: ``Y = X + γ · W_o Σ_e softmax_e(q·k_e / √d + ln π_e) v_e``.

    Each expert belongs to a category, ``tiny`` or ``general``. In every cell a router selects the best ``topk`` experts
    of each category. A gate, which reads the whole level, distributes the weight among the categories and gives each of
    them at least ``min_gate``, so that none is starved. γ is 0 at first, so that the module is the identity.

    The weight of an expert that is selected alone in its category does not depend on the router's logits. It gets the
    gradient of its probability among all experts of the category (straight-through estimator): otherwise a router with
    ``topk=1`` would learn from the balance loss alone.
    """

    def __init__(
        self,
        *,
        experts: Sequence[nn.Module],
        embed_dim: int = 256,
        num_heads: int = 8,
        hidden_dim: int = 64,
        topk: int = 1,
        min_gate: float = 0.1,
        router_noise: float = 0.0,
        balance_weight: float = 0.01,
        z_weight: float = 0.001,
        norm: str = "GN",
        checkpointing: bool = False,
    ) -> None:
        """Build router, gate and mixture attention.

        Args:
            experts: modules that map L levels (a :class:`FrozenExpert` also the image) to levels of the same shapes,
                with the attributes ``category`` and ``name``.
            embed_dim: C, channels of the levels.
            num_heads: heads of the mixture attention.
            hidden_dim: channels of the router.
            topk: experts of each category that are selected in a cell.
            min_gate: least weight of a category, at most 1 / number of categories.
            router_noise: standard deviation of the noise on the router's logits in training, in units of 1 / number of
                experts.
            balance_weight: weight of the load-balancing loss.
            z_weight: weight of the router's z-loss (Zoph et al., ST-MoE, 2022).
            norm: normalisation in the router.
            checkpointing: recompute experts and mixture in the backward pass instead of keeping their activations.

        Raises:
            ValueError: a setting outside its range, or experts that are no modules or share a name.
        """
        super().__init__()
        if wrong := [expert for expert in experts if not isinstance(expert, nn.Module)]:
            raise ValueError(f"REM: {wrong[0]!r} is no expert; in a config it is L(Expert)(…).")
        kinds = [str(expert.category) for expert in experts]
        self.categories = list(dict.fromkeys(kinds))
        ordered = sorted(experts, key=lambda expert: self.categories.index(str(expert.category)))
        sizes = [kinds.count(category) for category in self.categories]
        if not sizes or not 1 <= topk <= max(sizes) or not 0 <= min_gate * len(sizes) <= 1 or embed_dim % num_heads:
            raise ValueError(
                f"REM: categories of {sizes} experts, topk={topk}, min_gate={min_gate}, embed_dim={embed_dim}, "
                f"num_heads={num_heads}: there must be experts, topk is at least 1 and at most the experts of a "
                "category, min_gate times the number of categories is at most 1, and num_heads divides embed_dim."
            )
        self.names = [str(expert.name) for expert in ordered]
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"REM: experts {self.names} must have different names.")
        self.experts = nn.ModuleDict(dict(zip(self.names, ordered, strict=True)))
        self.sizes = sizes
        self.topk, self.min_gate, self.router_noise = topk, min_gate, router_noise
        self.balance_weight, self.z_weight = balance_weight, z_weight
        self.checkpointing = checkpointing
        self.num_heads, num_experts = num_heads, sum(sizes)
        self.router = nn.Sequential(
            nn.Conv2d(embed_dim, hidden_dim, 3, padding=1, bias=False),
            get_norm(norm, hidden_dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden_dim, num_experts, 1),
        )
        self.gate = nn.Linear(embed_dim, len(sizes))
        self.query, self.key, self.value = (nn.Conv2d(embed_dim, embed_dim, 1, bias=False) for _ in range(3))
        self.output = nn.Conv2d(embed_dim, embed_dim, 1, bias=False)
        self.scale = nn.Parameter(torch.zeros(embed_dim, 1, 1))

    def by_category(self) -> dict[str, list[str]]:
        """Return the names of the experts of each category."""
        ends = list(itertools.accumulate(self.sizes))
        return {c: self.names[end - n : end] for c, n, end in zip(self.categories, self.sizes, ends, strict=True)}

    def route(self, x: Tensor, valid_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the routing weights of one level.

        Args:
            x: (B, C, H, W), zero in the padding.
            valid_mask: (B, 1, H, W) boolean, False for padding cells; None without padding.

        Returns:
            Routing weights π and router logits, both (B, E, H, W) float32.
        """
        first, norm, *others = self.router
        logits = masked_norm(norm, first(x), valid_mask)
        for layer in others:
            logits = layer(logits)
        logits = logits.float()
        if self.training and self.router_noise:
            logits = logits + torch.randn_like(logits) * self.router_noise / logits.shape[1]
        with without_autocast(x.device):
            gate = self.gate(_masked_mean(x.float(), valid_mask, dims=(2, 3))).softmax(dim=1)
            gate = self.min_gate + (1 - len(self.sizes) * self.min_gate) * gate
            parts = [
                self._category_weights(category_logits) * gate[:, category, None, None, None]
                for category, category_logits in enumerate(logits.split(self.sizes, dim=1))
            ]
        return torch.cat(parts, dim=1), logits

    def _category_weights(self, logits: Tensor) -> Tensor:
        """Return the softmax over the selected experts of a category, (B, experts of the category, H, W)."""
        topk = logits.topk(min(self.topk, logits.shape[1]), dim=1)
        selected = torch.zeros_like(logits, dtype=torch.bool).scatter(1, topk.indices, True)
        weights = logits.masked_fill(~selected, -torch.inf).softmax(dim=1)
        if topk.indices.shape[1] == 1:
            probability = logits.softmax(dim=1)
            weights = weights.detach() + (probability - probability.detach()) * selected
        return weights

    def forward(
        self, features: Sequence[Tensor], padding_masks: Sequence[Tensor], image: Tensor | None = None
    ) -> tuple[list[Tensor], RoutingOutput]:
        """Add the mixture of the experts to a feature pyramid.

        Args:
            features: L levels (B, C, H, W), finest first.
            padding_masks: L masks (B, H, W) boolean, True for padding cells.
            image: (B, 3, H, W) normalised, for frozen experts.

        Returns:
            The L levels, and the decisions of the router.
        """
        # if the finest level has no padding, no level has
        padded = bool(padding_masks[0].any())
        masks = [(~m)[:, None] if padded else None for m in padding_masks]
        args = (list(features), masks, image)
        recompute = self.checkpointing and self.training
        results = checkpoint(self._forward, *args, use_reentrant=False) if recompute else self._forward(*args)
        out, routing_weights, balance, z = results
        losses = {"loss_balance": self.balance_weight * balance, "loss_router_z": self.z_weight * z}
        return out, RoutingOutput(routing_weights, masks, losses, self.names)

    def _forward(
        self, features: list[Tensor], valid_masks: ValidMasks, image: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Return levels, routing weights, load-balancing loss and z-loss."""
        clean = [x if m is None else x * m for x, m in zip(features, valid_masks, strict=True)]
        expert_features = [
            expert(clean, valid_masks, image) if isinstance(expert, FrozenExpert) else expert(clean, valid_masks)
            for expert in self.experts.values()
        ]
        routing_weights, balance, z, out = [], [], [], []
        for level, (x, mask) in enumerate(zip(clean, valid_masks, strict=True)):
            pi, logits = self.route(x, mask)
            candidates = self._candidates([levels[level] for levels in expert_features], pi)
            out.append(features[level] + self.scale * self._mixture_attention(x, *candidates))
            routing_weights.append(pi)
            balance.append(self._balance_loss(logits, mask))
            z.append(_masked_mean(logits.logsumexp(dim=1, keepdim=True) ** 2, mask).mean())
        return out, routing_weights, torch.stack(balance).mean(), torch.stack(z).mean()

    def _candidates(self, experts: Sequence[Tensor], pi: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return features and weights among which the attention chooses in each cell.

        With ``topk=1`` they are those of the selected expert of each category, which saves the others' keys and values.
        """
        if self.topk > 1:
            return list(experts), pi
        features, weights, start = [], [], 0
        for size in self.sizes:
            members, member_weights = experts[start : start + size], pi[:, start : start + size]
            selected = members[0]
            for e in range(1, size):
                selected = torch.where(member_weights[:, e : e + 1] > 0, members[e], selected)
            features.append(selected)
            weights.append(member_weights.sum(dim=1, keepdim=True))
            start += size
        return features, torch.cat(weights, dim=1)

    def _mixture_attention(self, x: Tensor, experts: Sequence[Tensor], pi: Tensor) -> Tensor:
        """Attend from each cell of (B, C, H, W) to the experts' features in the same cell."""
        batch, channels, height, width = x.shape
        split = (batch, self.num_heads, channels // self.num_heads, height, width)
        query = self.query(x).view(split).float()
        keys = [self.key(f).view(split).float() for f in experts]
        logits = torch.stack([(query * k).sum(dim=2) for k in keys], dim=2) / math.sqrt(split[2])  # (B, M, E, H, W)
        logits = logits + torch.log(pi + 1e-6)[:, None]
        weight = logits.masked_fill(pi[:, None] == 0, -torch.inf).softmax(dim=2)
        mixed = torch.stack(
            [self.value(f).view(split) * weight[:, :, e, None].to(f.dtype) for e, f in enumerate(experts)]
        ).sum(dim=0)
        out: Tensor = self.output(mixed.reshape(batch, channels, height, width))
        return out

    def _balance_loss(self, logits: Tensor, valid_mask: Tensor | None) -> Tensor:
        """Return the mean over the categories of n Σ_e f_e P_e (Fedus et al., Switch Transformer, 2022, eq. 4).

        n is the number of experts of the category, f_e the share of the cells that select expert e, P_e its mean
        probability. The loss is 1 if the load is even, and n if one expert has all of it.
        """
        parts = []
        for category_logits in logits.split(self.sizes, dim=1):
            count = category_logits.shape[1]
            topk = min(self.topk, count)
            selected = torch.zeros_like(category_logits)
            selected = selected.scatter(1, category_logits.topk(topk, dim=1).indices, 1.0 / topk)
            probability = category_logits.softmax(dim=1)
            parts.append(count * (_masked_mean(selected, valid_mask) * _masked_mean(probability, valid_mask)).sum())
        return torch.stack(parts).mean()


def _masked_mean(x: Tensor, valid_mask: Tensor | None, dims: tuple[int, ...] = (0, 2, 3)) -> Tensor:
    """Return the mean of (B, C, H, W) over images and cells, or over ``dims``, without padding cells."""
    if valid_mask is None:
        return x.mean(dim=dims)
    return (x * valid_mask).sum(dim=dims) / valid_mask.float().sum(dim=dims).clamp(min=1)
