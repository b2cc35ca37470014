"""REM of ScaleBridge-Det: routed experts for tiny and for general objects, mixed by attention (SPEC §11.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import DilatedDepthwise
from d2tiny.utils.precision import without_autocast

__all__ = ["REM", "ContextExpert", "DetailExpert", "FrozenExpert", "LocalExpert", "Routed", "WideExpert"]


def _project(channels: int, norm: str) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), get_norm(norm, channels))


class LocalExpert(nn.Module):
    """Tiny objects: a depth-wise 3×3 residual block on the level itself."""

    category, title = "tiny", "local"

    def __init__(self, channels: int, *, norm: str = "GN") -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.project = _project(channels, norm)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map L levels (B, C, H, W) to the same shapes."""
        return [self.project(F.relu(x + self.conv(x))) for x in maps]


class DetailExpert(nn.Module):
    """Tiny objects: the strongest of the next finer level, which a level's own cells have averaged away."""

    category, title = "tiny", "detail"

    def __init__(self, channels: int, *, norm: str = "GN") -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.project = _project(channels, norm)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map L levels (B, C, H, W) to the same shapes; the finest has no finer one."""
        result = []
        for i, x in enumerate(maps):
            finer = F.adaptive_max_pool2d(maps[i - 1], x.shape[-2:]) if i else x
            result.append(self.project(F.relu(self.conv(x) + finer)))
        return result


class WideExpert(nn.Module):
    """General objects: a depth-wise 7×7 with dilation 3, 19 cells wide."""

    category, title = "general", "wide"

    def __init__(self, channels: int, *, norm: str = "GN") -> None:
        super().__init__()
        self.conv = DilatedDepthwise(channels, 7, 3)
        self.project = _project(channels, norm)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map L levels (B, C, H, W) to the same shapes."""
        return [self.project(F.relu(self.conv(x) + x)) for x in maps]


class ContextExpert(nn.Module):
    """General objects: what is in the whole map, found by attention to one query (Cao et al., GCNet, 2019)."""

    category, title = "general", "context"

    def __init__(self, channels: int, *, norm: str = "GN", reduction: int = 4) -> None:
        super().__init__()
        self.look = nn.Conv2d(channels, 1, 1)
        self.change = nn.Sequential(
            nn.Linear(channels, channels // reduction), nn.ReLU(), nn.Linear(channels // reduction, channels)
        )
        self.project = _project(channels, norm)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map L levels (B, C, H, W) to the same shapes."""
        result = []
        for x in maps:
            weight = self.look(x).flatten(2).float().softmax(dim=-1).to(x.dtype)
            context = (x.flatten(2) * weight).sum(dim=-1)
            result.append(self.project(F.relu(x + self.change(context)[..., None, None])))
        return result


class FrozenExpert(nn.Module):
    """A foreign backbone that never learns, with a 1×1 adapter that does."""

    def __init__(
        self,
        *,
        backbone: nn.Module,
        features: Sequence[str],
        in_channels: Sequence[int],
        channels: int,
        category: str = "general",
        title: str = "frozen",
        norm: str = "GN",
    ) -> None:
        """Wrap a backbone.

        Args:
            backbone: image (B, 3, H, W) to a dict of maps.
            features: names of its maps, one for each level, finest first; a name may be repeated.
            in_channels: of these maps.
            channels: C of the levels.
            category: that it belongs to.
            title: its name in logs and pictures.
            norm: of the adapters.
        """
        super().__init__()
        self.category, self.title = category, title
        self.backbone, self.features = backbone.requires_grad_(False).eval(), tuple(features)
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), get_norm(norm, channels)) for c in in_channels
        )

    def train(self, mode: bool = True) -> FrozenExpert:
        """Only the adapters change their mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, maps: Sequence[Tensor], image: Tensor | None = None) -> list[Tensor]:
        """Map the image to the levels' shapes.

        Raises:
            ValueError: no image.
        """
        if image is None:
            raise ValueError("FrozenExpert: needs the image; REM.forward(maps, paddings, image).")
        with torch.no_grad():
            found = self.backbone(image)
        return [
            adapter(F.interpolate(found[name], size=x.shape[-2:], mode="bilinear", align_corners=False))
            for x, name, adapter in zip(maps, self.features, self.adapters, strict=True)
        ]


@dataclass(frozen=True)
class Routed:
    """What the router decided, for losses and pictures.

    Attributes:
        shares: L times (B, E, H, W), π of the experts, sum 1; 0 for those that are not asked.
        losses: ``loss_balance`` and ``loss_router_z``.
        statistics: ``expert_<name>`` mean share of each expert, without gradient.
    """

    shares: list[Tensor]
    losses: dict[str, Tensor]
    statistics: dict[str, float]


class REM(nn.Module):
    """Routed experts mixed by attention: ``Y = X + γ · W_o Σ_e softmax_e(q·k_e/√d + ln π_e) v_e``.

    Experts belong to categories (``tiny``, ``general``). At every place the best ``topk`` of each category are asked;
    a gate looks at the whole map and shares between the categories, but gives none of them less than ``least_share``,
    so that no scale is starved. γ is 0 at first: nothing changes.

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

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        kinds = [str(expert.category) for expert in experts]
        self.categories = list(dict.fromkeys(kinds))
        ordered = sorted(experts, key=lambda expert: self.categories.index(str(expert.category)))
        sizes = [kinds.count(category) for category in self.categories]
        if not sizes or topk < 1 or not 0 <= least_share * len(sizes) <= 1 or channels % heads:
            raise ValueError(
                f"REM: categories of {sizes} experts, topk {topk}, least_share {least_share}, {channels} channels by "
                f"{heads} heads: there must be experts, topk is at least 1, the least shares add up to 1 at most, and "
                "heads divide the channels."
            )
        self.names = [str(expert.title) for expert in ordered]
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"REM: experts {self.names} must have different titles.")
        self.experts = nn.ModuleDict(dict(zip(self.names, ordered, strict=True)))
        self.sizes = sizes
        self.topk, self.least_share, self.noise = topk, least_share, noise
        self.balance_weight, self.z_weight = balance_weight, z_weight
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

    def shares(self, x: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """π (B, E, H, W) and the router's logits, both float32.

        Args:
            x: (B, C, H, W).
            inside: (B, 1, H, W) 1 in the image, 0 in the padding.
        """
        logits = self.router(x * inside).float()
        mean = (x * inside).float().sum(dim=(2, 3)) / inside.sum(dim=(2, 3)).clamp(min=1)
        with without_autocast(x.device):
            count = len(self.sizes)
            gate = self.least_share + (1 - count * self.least_share) * self.gate(mean.float()).softmax(dim=1)
            noisy = logits
            if self.training and self.noise:
                noisy = logits + torch.randn_like(logits) * self.noise / logits.shape[1]
            parts = []
            for category, own in enumerate(noisy.split(self.sizes, dim=1)):
                kth = own.topk(min(self.topk, own.shape[1]), dim=1)
                kept = torch.full_like(own, -torch.inf).scatter(1, kth.indices, kth.values)
                parts.append(kept.softmax(dim=1) * gate[:, category, None, None, None])
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
        inside = [(~p)[:, None].to(x.dtype) for x, p in zip(maps, paddings, strict=True)]
        clean = [x * i for x, i in zip(maps, inside, strict=True)]
        said = [e(clean, image) if isinstance(e, FrozenExpert) else e(clean) for e in self.experts.values()]
        shares, balance, zs, out = [], [], [], []
        for level, (x, here) in enumerate(zip(maps, inside, strict=True)):
            pi, logits = self.shares(x, here)
            out.append(x + self.scale * self._mix(x, [features[level] for features in said], pi))
            shares.append(pi)
            balance.append(self._balance(logits, here))
            zs.append((logits.logsumexp(dim=1, keepdim=True) ** 2 * here).sum() / here.sum().clamp(min=1))
        losses = {
            "loss_balance": self.balance_weight * torch.stack(balance).mean(),
            "loss_router_z": self.z_weight * torch.stack(zs).mean(),
        }
        return out, Routed(shares, losses, self._statistics(shares, inside))

    def _mix(self, x: Tensor, experts: Sequence[Tensor], pi: Tensor) -> Tensor:
        """Attention of every place to its own E experts."""
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
        return self.output(mixed.reshape(batch, channels, height, width))

    def _balance(self, logits: Tensor, inside: Tensor) -> Tensor:
        """Mean over the categories of |c| Σ_e f_e P_e (Fedus et al., Switch Transformer, 2022): 1 when even."""
        total, parts = inside.sum().clamp(min=1).float(), []
        for own in logits.split(self.sizes, dim=1):
            count = own.shape[1]
            kept = min(self.topk, count)
            asked = torch.zeros_like(own).scatter(1, own.topk(kept, dim=1).indices, 1.0 / kept)
            share = (asked * inside).sum(dim=(0, 2, 3)) / total
            mean = (own.softmax(dim=1) * inside).sum(dim=(0, 2, 3)) / total
            parts.append(count * (share * mean).sum())
        return torch.stack(parts).mean()

    @torch.no_grad()
    def _statistics(self, shares: Sequence[Tensor], inside: Sequence[Tensor]) -> dict[str, float]:
        total = sum(float(i.sum()) for i in inside)
        used = sum((pi * i).sum(dim=(0, 2, 3)) for pi, i in zip(shares, inside, strict=True))
        assert isinstance(used, Tensor)
        return {f"expert_{n}": float(v) / max(total, 1.0) for n, v in zip(self.names, used, strict=True)}
