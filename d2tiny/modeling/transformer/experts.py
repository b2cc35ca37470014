"""The experts of REM: light ones for tiny and for general objects, and foreign backbones that never learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import DilatedDepthwise
from d2tiny.layers.masked_norm import masked_norm

__all__ = ["ContextExpert", "DetailExpert", "FrozenExpert", "Insides", "LocalExpert", "WideExpert"]

Insides = Sequence[Tensor | None]  # (B, 1, H, W) boolean of each level, None without padding


class _Projected(nn.Module):
    """Levels to levels of the same shapes, the last step a 1×1 convolution with a normalisation."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), get_norm(norm, channels))

    def forward(self, maps: Sequence[Tensor], insides: Insides | None = None) -> list[Tensor]:
        """Map L levels (B, C, H, W), zero in the padding, to the same shapes.

        Args:
            maps: finest first.
            insides: what of them is image; None: all.
        """
        insides = insides or [None] * len(maps)
        found = [self.see(maps, insides, level) for level in range(len(maps))]
        return [masked_norm(self.project[1], self.project[0](x), i) for x, i in zip(found, insides, strict=True)]

    def see(self, maps: Sequence[Tensor], insides: Insides, level: int) -> Tensor:
        """What the expert finds on a level, before the projection."""
        raise NotImplementedError


class LocalExpert(_Projected):
    """Tiny objects: a depth-wise 3×3 residual block on the level itself."""

    category, title = "tiny", "local"

    def __init__(self, channels: int, *, norm: str = "GN") -> None:
        super().__init__(channels, norm)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def see(self, maps: Sequence[Tensor], insides: Insides, level: int) -> Tensor:
        """The level and its neighbourhood."""
        return F.relu(maps[level] + self.conv(maps[level]))


class DetailExpert(_Projected):
    """Tiny objects: the strongest of the next finer level, which a level's own cells have averaged away."""

    category, title = "tiny", "detail"

    def __init__(self, channels: int, *, norm: str = "GN") -> None:
        super().__init__(channels, norm)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def see(self, maps: Sequence[Tensor], insides: Insides, level: int) -> Tensor:
        """The level and the strongest of the finer one; the finest has none."""
        x = maps[level]
        finer = x
        if level:
            finer, inside = maps[level - 1], insides[level - 1]
            if inside is not None:
                finer = finer.masked_fill(~inside, torch.finfo(finer.dtype).min)
            finer = F.max_pool2d(finer, 2, 2, ceil_mode=True)
            if finer.shape != x.shape:  # levels that do not halve
                finer = F.adaptive_max_pool2d(finer, x.shape[-2:])
            here = insides[level]
            finer = finer if here is None else finer.masked_fill(~here, 0.0)
        return F.relu(self.conv(x) + finer)


class WideExpert(_Projected):
    """General objects: a depth-wise 7×7 with dilation 3, 19 cells wide."""

    category, title = "general", "wide"

    def __init__(self, channels: int, *, norm: str = "GN") -> None:
        super().__init__(channels, norm)
        self.conv = DilatedDepthwise(channels, 7, 3)

    def see(self, maps: Sequence[Tensor], insides: Insides, level: int) -> Tensor:
        """The level and its wide neighbourhood."""
        return F.relu(self.conv(maps[level]) + maps[level])


class ContextExpert(_Projected):
    """General objects: what is in the whole map, found by attention to one query (Cao et al., GCNet, 2019)."""

    category, title = "general", "context"

    def __init__(self, channels: int, *, norm: str = "GN", reduction: int = 4) -> None:
        super().__init__(channels, norm)
        self.look = nn.Conv2d(channels, 1, 1)
        self.change = nn.Sequential(
            nn.Linear(channels, channels // reduction), nn.ReLU(), nn.Linear(channels // reduction, channels)
        )

    def see(self, maps: Sequence[Tensor], insides: Insides, level: int) -> Tensor:
        """The level and what it is about."""
        x, inside = maps[level], insides[level]
        score = self.look(x).float()
        if inside is not None:
            score = score.masked_fill(~inside, torch.finfo(torch.float32).min)
        weight = score.flatten(2).softmax(dim=-1).to(x.dtype)
        context = (x.flatten(2) * weight).sum(dim=-1)
        return F.relu(x + self.change(context)[..., None, None])


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
        weights: str = "",
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
            weights: file or address of the backbone's weights, read here; a checkpoint of the whole model has them too.

        Raises:
            ValueError: numbers of features and channels that differ.
        """
        super().__init__()
        if len(features) != len(in_channels):
            raise ValueError(f"FrozenExpert: features {list(features)} and in_channels {list(in_channels)} must pair.")
        self.category, self.title = category, title
        if weights:
            DetectionCheckpointer(backbone).load(weights)
        self.backbone, self.features = backbone.requires_grad_(False).eval(), tuple(features)
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), get_norm(norm, channels)) for c in in_channels
        )

    def train(self, mode: bool = True) -> FrozenExpert:
        """Only the adapters change their mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(
        self, maps: Sequence[Tensor], insides: Insides | None = None, image: Tensor | None = None
    ) -> list[Tensor]:
        """Map the image to the levels' shapes.

        Raises:
            ValueError: no image, or other levels than features.
        """
        if image is None:
            raise ValueError("FrozenExpert: needs the image; REM.forward(maps, paddings, image).")
        if len(maps) != len(self.features):
            raise ValueError(
                f"FrozenExpert: {len(maps)} levels, but features {list(self.features)}; name one for each."
            )
        with torch.no_grad():
            found = self.backbone(image)
        result = []
        for x, name, adapter, inside in zip(
            maps, self.features, self.adapters, insides or [None] * len(maps), strict=True
        ):
            seen = F.interpolate(found[name], size=x.shape[-2:], mode="bilinear", align_corners=False)
            assert isinstance(adapter, nn.Sequential)
            result.append(masked_norm(adapter[1], adapter[0](seen), inside))
        return result
