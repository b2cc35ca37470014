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
from d2tiny.modeling.contracts import Targets
from d2tiny.modeling.transformer.density_map import covered_cells
from d2tiny.modeling.transformer.experts import FrozenExpert, ValidMasks
from d2tiny.modeling.transformer.tokens import Tokens
from d2tiny.utils.precision import without_autocast
from d2tiny.utils.tracing import is_traced

__all__ = ["REM", "RoutingOutput"]


@dataclass(frozen=True)
class RoutingOutput:
    """Decisions of the router, for losses, logs and pictures.

    Attributes:
        routing_weights: L tensors (B, E, H, W), shares of the E experts in the mixture (means of the heads), sum 1; 0
            for experts that are not selected.
        gates: L tensors (B, categories, H, W), logits of the categories; their softmax is the gate, before its floor.
        valid_masks: L tensors (B, 1, H, W) boolean, False for padding cells; None without padding.
        losses: ``loss_balance`` and ``loss_router_z``.
        names: of the E experts.
    """

    routing_weights: list[Tensor]
    gates: list[Tensor]
    valid_masks: ValidMasks
    losses: dict[str, Tensor]
    names: list[str]

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """Return ``expert_<name>`` for each expert: its mean share over the cells of all levels."""
        parts = [pi if m is None else pi * m for pi, m in zip(self.routing_weights, self.valid_masks, strict=True)]
        total = torch.stack([p.sum(dim=(0, 2, 3)) for p in parts]).sum(dim=0)
        return {f"expert_{n}": v for n, v in zip(self.names, (total / total.sum()).tolist(), strict=True)}


class REM(nn.Module):
    """Mixture of experts: ``Y = X + γ · W_o Σ_c g_c Σ_{e∈c} softmax_{e∈c}(q·k_e / √d + ln p_e) v_e``.

    Each expert belongs to a category c, ``tiny`` or ``general``. In every cell a router gives each of the ``topk`` best
    experts of a category its probability p_e, and attention of each head chooses among them. A gate, which reads the
    cell and its level, distributes the weight among the categories and gives each of them at least ``min_gate``: since
    attention stays inside a category, no category ever has less in the mixture. γ is 0 at first, so that the module is
    the identity.

    With ``topk=1`` nothing is left to attend to; queries, keys and values are not built: a category gives the
    features of its best expert. The share of an expert that is selected alone does not depend on the router's logits.
    It gets the gradient of its probability among all experts of the category (straight-through estimator): otherwise
    the router would learn from the balance loss alone.
    """

    def __init__(
        self,
        *,
        experts: Sequence[nn.Module],
        embed_dim: int = 256,
        num_heads: int = 8,
        hidden_dim: int = 64,
        topk: int = 2,
        min_gate: float = 0.1,
        router_noise: float = 0.0,
        balance_weight: float = 0.01,
        z_weight: float = 0.001,
        scale_weight: float = 0.0,
        tiny_size: float = 16.0,
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
            scale_weight: weight of a loss that ties the gate of the category ``tiny`` to tiny objects; 0 for none.
            tiny_size: objects with √(w·h) under this many px are tiny.
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
        self.scale_weight, self.tiny_size = scale_weight, tiny_size
        if scale_weight and ("tiny" not in self.categories or len(self.categories) < 2):
            raise ValueError(
                f"REM: scale_weight={scale_weight} needs a category 'tiny' and another one, but there are {kinds}."
            )
        if min(router_noise, balance_weight, z_weight, scale_weight) < 0:
            raise ValueError(
                f"REM: router_noise={router_noise} and the weights of losses {balance_weight}, {z_weight}, "
                f"{scale_weight} must be at least 0."
            )
        self.checkpointing = checkpointing
        self.num_heads, num_experts = num_heads, sum(sizes)
        self.router = nn.Sequential(
            nn.Conv2d(embed_dim, hidden_dim, 3, padding=1, bias=False),
            get_norm(norm, hidden_dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden_dim, num_experts, 1),
        )
        self.gate = nn.Conv2d(hidden_dim, len(sizes), 1)
        self.level_gate = nn.Linear(embed_dim, len(sizes))
        self.attends = topk > 1 and max(sizes) > 1
        if self.attends:
            self.query, self.key = (nn.Conv2d(embed_dim, embed_dim, 1, bias=False) for _ in range(2))
            self.value = nn.Conv2d(embed_dim, embed_dim, 1, bias=False)
        self.output = nn.Conv2d(embed_dim, embed_dim, 1, bias=False)
        self.scale = nn.Parameter(torch.zeros(embed_dim, 1, 1))

    def by_category(self) -> dict[str, list[str]]:
        """Return the names of the experts of each category."""
        ends = list(itertools.accumulate(self.sizes))
        return {c: self.names[end - n : end] for c, n, end in zip(self.categories, self.sizes, ends, strict=True)}

    def route(self, x: Tensor, valid_mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the decisions of router and gate for one level.

        Args:
            x: (B, C, H, W), zero in the padding.
            valid_mask: (B, 1, H, W) boolean, False for padding cells; None without padding.

        Returns:
            The experts' probabilities p within their category (B, E, H, W), the router's logits (B, E, H, W) and the
            gate's logits (B, categories, H, W), all float32.
        """
        first, norm, activation, last = self.router
        hidden = activation(masked_norm(norm, first(x), valid_mask))
        logits = last(hidden).float()
        if self.training and self.router_noise:
            logits = logits + torch.randn_like(logits) * self.router_noise / logits.shape[1]
        gate = self.gate(hidden).float()
        with without_autocast(x.device):
            level = self.level_gate(_masked_mean(x.float(), valid_mask, dims=(2, 3)))
            parts = [self._category_weights(category_logits) for category_logits in logits.split(self.sizes, dim=1)]
        return torch.cat(parts, dim=1), logits, gate + level[..., None, None]

    def _category_weights(self, logits: Tensor) -> Tensor:
        """Return the softmax over the selected experts of a category, (B, experts of the category, H, W)."""
        topk = logits.topk(min(self.topk, logits.shape[1]), dim=1)
        selected = torch.zeros_like(logits).scatter(1, topk.indices, 1.0) > 0  # torch.jit.trace scatters no booleans
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
        padded = is_traced() or bool(padding_masks[0].any())
        masks = [(~m)[:, None] if padded else None for m in padding_masks]
        args = (list(features), masks, image)
        recompute = self.checkpointing and self.training
        results = checkpoint(self._forward, *args, use_reentrant=False) if recompute else self._forward(*args)
        out, shares, gates, balance, z = results
        losses = {"loss_balance": self.balance_weight * balance, "loss_router_z": self.z_weight * z}
        return out, RoutingOutput(shares, gates, masks, losses, self.names)

    def _forward(
        self, features: list[Tensor], valid_masks: ValidMasks, image: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor]:
        """Return levels, shares of the experts, logits of the gate, load-balancing loss and z-loss."""
        clean = [x if m is None else x * m for x, m in zip(features, valid_masks, strict=True)]
        expert_features = [
            expert(clean, valid_masks, image) if isinstance(expert, FrozenExpert) else expert(clean, valid_masks)
            for expert in self.experts.values()
        ]
        shares, gates, balance, z, out = [], [], [], [], []
        for level, (x, mask) in enumerate(zip(clean, valid_masks, strict=True)):
            probability, logits, gate = self.route(x, mask)
            floor = self.min_gate + (1 - len(self.sizes) * self.min_gate) * gate.softmax(dim=1)
            mixture, share = self._mix(x, [levels[level] for levels in expert_features], probability, floor)
            out.append(features[level] + self.scale * mixture)
            shares.append(share)
            gates.append(gate)
            balance.append(self._balance_loss(logits, mask))
            z.append(_masked_mean(logits.logsumexp(dim=1, keepdim=True) ** 2, mask).mean())
        return out, shares, gates, torch.stack(balance).mean(), torch.stack(z).mean()

    def _mix(self, x: Tensor, experts: Sequence[Tensor], probability: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the experts' features in each cell.

        Args:
            x: (B, C, H, W), the level.
            experts: E features (B, C, H, W).
            probability: (B, E, H, W), sum 1 within each category, 0 for experts that are not selected.
            gate: (B, categories, H, W), sum 1.

        Returns:
            The mixture (B, C, H, W), and the share of each expert in it (B, E, H, W).
        """
        of_expert = torch.cat([gate[:, c : c + 1].expand(-1, n, -1, -1) for c, n in enumerate(self.sizes)], dim=1)
        if not self.attends:
            share = probability * of_expert
            mixed = sum(f * share[:, e : e + 1].to(f.dtype) for e, f in enumerate(experts))
            return self.output(mixed), share.detach()
        batch, channels, height, width = x.shape
        split = (batch, self.num_heads, channels // self.num_heads, height, width)
        query = self.query(x).view(split).float()
        logits = torch.stack([(query * self.key(f).view(split).float()).sum(dim=2) for f in experts], dim=2)
        selected = probability[:, None] > 0
        # a logarithm of exactly 0 would have a NaN as its gradient
        prior = torch.log(probability.clamp(min=1e-6))[:, None]
        logits = (logits / math.sqrt(split[2]) + prior).masked_fill(~selected, -torch.inf)  # (B, M, E, H, W)
        weight = torch.cat([part.softmax(dim=2) for part in logits.split(self.sizes, dim=2)], dim=2)
        weight = weight * of_expert[:, None]
        mixed = sum(self.value(f).view(split) * weight[:, :, e, None].to(f.dtype) for e, f in enumerate(experts))
        out: Tensor = self.output(mixed.reshape(batch, channels, height, width))
        return out, weight.detach().mean(dim=1)

    def scale_losses(
        self,
        routing: RoutingOutput,
        targets: Targets,
        tokens: Tokens,
        image_sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Tensor]:
        """Return ``loss_scale``, which ties the gate of the category ``tiny`` to tiny objects; {} without a weight.

        It is the binary cross-entropy of the gate, the mean of cells that a tiny object covers plus that of the others,
        a mean over images and levels. Cells in ignore regions teach nothing.

        Args:
            routing: decisions of the router.
            targets: objects of the images.
            tokens: the levels.
            image_sizes: (height, width) of the images in px.
        """
        if not self.scale_weight:
            return {}
        parts = []
        for level, gate in enumerate(routing.gates):
            sizes, extents = tokens.valid_sizes(level), tokens.valid_extents(level)
            probability = gate.softmax(dim=1)[:, self.categories.index("tiny")].clamp(1e-6, 1 - 1e-6)
            for i, size in enumerate(sizes):
                extent = extents[i]
                tiny = covered_by_tiny(targets.boxes[i], image_sizes[i], size, self.tiny_size, extent)
                learned = ~covered_cells(targets.ignore_boxes[i].float() * extent.repeat(2), size)
                p = probability[i, : size[0], : size[1]]
                for chosen, loss in ((tiny & learned, -p.log()), (~tiny & learned, -(1 - p).log())):
                    parts.append((loss * chosen).sum() / chosen.sum().clamp(min=1))
        return {"loss_scale": 2 * self.scale_weight * torch.stack(parts).mean()}

    def _balance_loss(self, logits: Tensor, valid_mask: Tensor | None) -> Tensor:
        """Return the mean over the categories of n Σ_e f_e P_e (Fedus et al., Switch Transformer, 2022, eq. 4).

        n is the number of experts of the category, f_e the share of the cells in which expert e is the best, P_e its
        mean probability. The loss is 1 if the load is even, and n if one expert has all of it.
        """
        parts = []
        for category_logits in logits.split(self.sizes, dim=1):
            count = category_logits.shape[1]
            best = category_logits.argmax(dim=1, keepdim=True)
            selected = torch.zeros_like(category_logits).scatter(1, best, 1.0)
            probability = category_logits.softmax(dim=1)
            parts.append(count * (_masked_mean(selected, valid_mask) * _masked_mean(probability, valid_mask)).sum())
        return torch.stack(parts).mean()


def _masked_mean(x: Tensor, valid_mask: Tensor | None, dims: tuple[int, ...] = (0, 2, 3)) -> Tensor:
    """Return the mean of (B, C, H, W) over images and cells, or over ``dims``, without padding cells."""
    if valid_mask is None:
        return x.mean(dim=dims)
    return (x * valid_mask).sum(dim=dims) / valid_mask.float().sum(dim=dims).clamp(min=1)


def covered_by_tiny(
    boxes: Tensor, image_size: tuple[int, int], cells: tuple[int, int], tiny_size: float, extent: Tensor
) -> Tensor:
    """Return (H, W) boolean, the cells that a tiny object covers, at least the one that holds its centre.

    Args:
        boxes: (G, 4) cx, cy, w, h in shares of the image.
        image_size: height and width of the image in px.
        cells: (H, W) of the level, without padding.
        tiny_size: objects with √(w·h) under this many px are tiny.
        extent: (2,) width and height of the image in cells, which need not be whole.
    """
    boxes = boxes.float()
    px = boxes[:, 2:] * boxes.new_tensor(image_size[::-1])
    boxes = boxes[px.prod(dim=1).sqrt() < tiny_size] * extent.repeat(2)
    # a cell counts if its centre is in the box: none is, of a box that is smaller than a cell
    centres, sides = boxes[:, :2].floor() + 0.5, boxes[:, 2:]
    at_centre = torch.cat((centres, torch.full_like(sides, 0.5)), dim=1)
    return covered_cells(torch.cat((boxes, at_centre)), cells)
