"""REM of ScaleBridge-Det: routed experts for tiny and for general objects, mixed by attention (SPEC §11.2)."""

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
from d2tiny.modeling.transformer.experts import FrozenExpert, Insides
from d2tiny.utils.precision import without_autocast

__all__ = ["REM", "Routed"]


@dataclass(frozen=True)
class Routed:
    """What the router decided, for losses and pictures.

    Attributes:
        shares: L times (B, E, H, W), π of the experts, sum 1; 0 for those that are not asked.
        insides: L times (B, 1, H, W) boolean, what is image; None where all is.
        losses: ``loss_balance`` and ``loss_router_z``.
        names: of the E experts.
    """

    shares: list[Tensor]
    insides: Insides
    losses: dict[str, Tensor]
    names: list[str]

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """``expert_<name>``: mean share of each expert over the places of all levels."""
        parts = [pi if i is None else pi * i for pi, i in zip(self.shares, self.insides, strict=True)]
        used = torch.stack([p.sum(dim=(0, 2, 3)) for p in parts]).sum(dim=0)
        return {f"expert_{n}": v for n, v in zip(self.names, (used / used.sum()).tolist(), strict=True)}


class REM(nn.Module):
    """Routed experts mixed by attention: ``Y = X + γ · W_o Σ_e softmax_e(q·k_e/√d + ln π_e) v_e``.

    Experts belong to categories (``tiny``, ``general``). At every place the best ``topk`` of each category are asked;
    a gate looks at the whole map and shares between the categories, but gives none of them less than ``least_share``,
    so that no scale is starved. γ is 0 at first: nothing changes.

    The share of the only expert that is asked in its category does not depend on the router's logits. Its gradient is
    therefore that of its probability among all experts of the category (straight through): without it a router with
    ``topk=1`` would learn from the balance loss alone.

    Only the abstract of the paper is public: the layers are our reading (SPEC §11.2).
    """

    def __init__(
        self,
        *,
        experts: Sequence[nn.Module],
        channels: int = 256,
        heads: int = 8,
        hidden: int = 64,
        topk: int = 1,
        least_share: float = 0.1,
        noise: float = 0.0,
        balance_weight: float = 0.01,
        z_weight: float = 0.001,
        norm: str = "GN",
        checkpointing: bool = False,
    ) -> None:
        """Join the experts.

        Args:
            experts: modules from levels (of a :class:`FrozenExpert` also the image) to levels, with the attributes
                ``category`` and ``title``.
            channels: C.
            heads: of the mixing attention.
            hidden: of the router.
            topk: experts of a category that are asked at each place.
            least_share: of every category, at most 1 / number of categories.
            noise: deviation of the router's noise in training, in units of 1 / number of experts.
            balance_weight: of the balance loss.
            z_weight: of the router's z loss.
            norm: of the router.
            checkpointing: compute experts and mixture again in the backward pass instead of keeping what they made.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        if wrong := [expert for expert in experts if not isinstance(expert, nn.Module)]:
            raise ValueError(f"REM: {wrong[0]!r} is no expert; in a config it is L(Expert)(…).")
        kinds = [str(expert.category) for expert in experts]
        self.categories = list(dict.fromkeys(kinds))
        ordered = sorted(experts, key=lambda expert: self.categories.index(str(expert.category)))
        sizes = [kinds.count(category) for category in self.categories]
        if not sizes or not 1 <= topk <= max(sizes) or not 0 <= least_share * len(sizes) <= 1 or channels % heads:
            raise ValueError(
                f"REM: categories of {sizes} experts, topk {topk}, least_share {least_share}, {channels} channels by "
                f"{heads} heads: there must be experts, topk is at least 1 and at most the experts of a category, the "
                "least shares add up to 1 at most, and heads divide the channels."
            )
        self.names = [str(expert.title) for expert in ordered]
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"REM: experts {self.names} must have different titles.")
        self.experts = nn.ModuleDict(dict(zip(self.names, ordered, strict=True)))
        self.sizes = sizes
        self.topk, self.least_share, self.noise = topk, least_share, noise
        self.balance_weight, self.z_weight = balance_weight, z_weight
        self.checkpointing = checkpointing
        self.heads, total = heads, sum(sizes)
        self.router = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
            get_norm(norm, hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, total, 1),
        )
        self.gate = nn.Linear(channels, len(sizes))
        self.query, self.key, self.value = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(3))
        self.output = nn.Conv2d(channels, channels, 1, bias=False)
        self.scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def by_category(self) -> dict[str, list[str]]:
        """Names of the experts of each category."""
        ends = list(itertools.accumulate(self.sizes))
        return {c: self.names[end - n : end] for c, n, end in zip(self.categories, self.sizes, ends, strict=True)}

    def shares(self, x: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """π (B, E, H, W) and the logits that chose, both float32.

        Args:
            x: (B, C, H, W), zero in the padding.
            inside: (B, 1, H, W) boolean, what is image; None: all.
        """
        first, norm, *others = self.router
        logits = masked_norm(norm, first(x), inside)
        for layer in others:
            logits = layer(logits)
        logits = logits.float()
        if self.training and self.noise:
            logits = logits + torch.randn_like(logits) * self.noise / logits.shape[1]
        with without_autocast(x.device):
            count = len(self.sizes)
            gate = self.gate(_mean(x.float(), inside, dims=(2, 3))).softmax(dim=1)
            gate = self.least_share + (1 - count * self.least_share) * gate
            parts = []
            for category, own in enumerate(logits.split(self.sizes, dim=1)):
                best = own.topk(min(self.topk, own.shape[1]), dim=1)
                asked = torch.zeros_like(own, dtype=torch.bool).scatter(1, best.indices, True)
                share = own.masked_fill(~asked, -torch.inf).softmax(dim=1)
                if best.indices.shape[1] == 1:
                    full = own.softmax(dim=1)
                    share = share.detach() + (full - full.detach()) * asked
                parts.append(share * gate[:, category, None, None, None])
        return torch.cat(parts, dim=1), logits

    def forward(
        self, maps: Sequence[Tensor], paddings: Sequence[Tensor], image: Tensor | None = None
    ) -> tuple[list[Tensor], Routed]:
        """Mix.

        Args:
            maps: L levels (B, C, H, W).
            paddings: L levels (B, H, W) boolean, cells that are none of the image.
            image: (B, 3, H, W), for frozen experts.

        Returns:
            The levels, and what the router decided.
        """
        # coarser levels look at some of the px that the finest looks at
        padded = bool(paddings[0].any())
        insides = [(~p)[:, None] if padded else None for p in paddings]
        again = self.checkpointing and self.training
        args = (list(maps), insides, image)
        out, shares, balance, z = checkpoint(self._route, *args, use_reentrant=False) if again else self._route(*args)
        losses = {"loss_balance": self.balance_weight * balance, "loss_router_z": self.z_weight * z}
        return out, Routed(shares, insides, losses, self.names)

    def _route(
        self, maps: list[Tensor], insides: Insides, image: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Levels, shares, balance and z loss."""
        clean = [x if i is None else x * i for x, i in zip(maps, insides, strict=True)]
        said = [
            e(clean, insides, image) if isinstance(e, FrozenExpert) else e(clean, insides)
            for e in self.experts.values()
        ]
        shares, balance, zs, out = [], [], [], []
        for level, (x, here) in enumerate(zip(clean, insides, strict=True)):
            pi, logits = self.shares(x, here)
            mixed = self._mix(x, *self._asked([features[level] for features in said], pi))
            out.append(maps[level] + self.scale * mixed)
            shares.append(pi)
            balance.append(self._balance(logits, here))
            zs.append(_mean(logits.logsumexp(dim=1, keepdim=True) ** 2, here).mean())
        return out, shares, torch.stack(balance).mean(), torch.stack(zs).mean()

    def _asked(self, experts: Sequence[Tensor], pi: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features and shares between which the attention chooses: of a category only those of the expert asked."""
        if self.topk > 1:
            return list(experts), pi
        chosen, shares, start = [], [], 0
        for size in self.sizes:
            own, share = experts[start : start + size], pi[:, start : start + size]
            best = own[0]
            for e in range(1, size):
                best = torch.where(share[:, e : e + 1] > 0, own[e], best)
            chosen.append(best)
            shares.append(share.sum(dim=1, keepdim=True))
            start += size
        return chosen, torch.cat(shares, dim=1)

    def _mix(self, x: Tensor, experts: Sequence[Tensor], pi: Tensor) -> Tensor:
        """Attention of every place to its own experts."""
        batch, channels, height, width = x.shape
        split = (batch, self.heads, channels // self.heads, height, width)
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

    def _balance(self, logits: Tensor, inside: Tensor | None) -> Tensor:
        """Mean over the categories of |c| Σ_e f_e P_e (Fedus et al., Switch Transformer, 2022): 1 when even."""
        parts = []
        for own in logits.split(self.sizes, dim=1):
            count = own.shape[1]
            kept = min(self.topk, count)
            asked = torch.zeros_like(own).scatter(1, own.topk(kept, dim=1).indices, 1.0 / kept)
            parts.append(count * (_mean(asked, inside) * _mean(own.softmax(dim=1), inside)).sum())
        return torch.stack(parts).mean()


def _mean(x: Tensor, inside: Tensor | None, dims: tuple[int, ...] = (0, 2, 3)) -> Tensor:
    """Mean of (B, C, H, W) over places, and images unless ``dims`` says otherwise, without padding."""
    if inside is None:
        return x.mean(dim=dims)
    return (x * inside).sum(dim=dims) / inside.float().sum(dim=dims).clamp(min=1)
