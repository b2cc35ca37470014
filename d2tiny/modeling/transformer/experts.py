"""Experts of REM: light ones for tiny and for general objects, and frozen pretrained backbones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import DilatedDepthwise
from d2tiny.layers.masked_norm import masked_norm

__all__ = ["ContextExpert", "DetailExpert", "FrozenExpert", "LocalExpert", "ValidMasks", "WideExpert"]

# for each level (B, 1, H, W) boolean, False for padding cells; None without padding
ValidMasks = Sequence[Tensor | None]


class _LightExpert(nn.Module):
    """Maps a feature pyramid to one of the same shapes; the last step is a 1×1 convolution with normalisation."""

    def __init__(self, embed_dim: int, norm: str) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Conv2d(embed_dim, embed_dim, 1, bias=False), get_norm(norm, embed_dim))

    def forward(self, features: Sequence[Tensor], valid_masks: ValidMasks | None = None) -> list[Tensor]:
        """Map L levels to L levels of the same shapes.

        Args:
            features: (B, C, H, W), finest level first, zero in the padding.
            valid_masks: of the levels; None without padding.
        """
        masks = valid_masks or [None] * len(features)
        extracted = [self.extract(features, masks, level) for level in range(len(features))]
        return [masked_norm(self.project[1], self.project[0](x), m) for x, m in zip(extracted, masks, strict=True)]

    def extract(self, features: Sequence[Tensor], valid_masks: ValidMasks, level: int) -> Tensor:
        """Return the expert's features (B, C, H, W) of a level, before the projection."""
        raise NotImplementedError


class LocalExpert(_LightExpert):
    """Expert for tiny objects: a residual depth-wise 3×3 convolution of the level itself."""

    category, name = "tiny", "local"

    def __init__(self, embed_dim: int, *, norm: str = "GN") -> None:
        super().__init__(embed_dim, norm)
        self.conv = nn.Conv2d(embed_dim, embed_dim, 3, padding=1, groups=embed_dim)

    def extract(self, features: Sequence[Tensor], valid_masks: ValidMasks, level: int) -> Tensor:
        """Return the level plus its 3×3 convolution."""
        return F.relu(features[level] + self.conv(features[level]))


class DetailExpert(_LightExpert):
    """Expert for tiny objects: adds the max-pooled next finer level, whose detail the level itself has averaged."""

    category, name = "tiny", "detail"

    def __init__(self, embed_dim: int, *, norm: str = "GN") -> None:
        super().__init__(embed_dim, norm)
        self.conv = nn.Conv2d(embed_dim, embed_dim, 3, padding=1, groups=embed_dim)

    def extract(self, features: Sequence[Tensor], valid_masks: ValidMasks, level: int) -> Tensor:
        """Return the level's 3×3 convolution plus the max-pooled finer level; the finest level is added to itself."""
        x = features[level]
        finer = x
        if level:
            finer, finer_mask = features[level - 1], valid_masks[level - 1]
            if finer_mask is not None:
                finer = finer.masked_fill(~finer_mask, torch.finfo(finer.dtype).min)
            finer = F.max_pool2d(finer, 2, 2, ceil_mode=True)
            if finer.shape != x.shape:  # the level is not half of the finer one
                finer = F.adaptive_max_pool2d(finer, x.shape[-2:])
            mask = valid_masks[level]
            finer = finer if mask is None else finer.masked_fill(~mask, 0.0)
        return F.relu(self.conv(x) + finer)


class WideExpert(_LightExpert):
    """Expert for general objects: a residual depth-wise 7×7 convolution with dilation 3, 19 cells wide."""

    category, name = "general", "wide"

    def __init__(self, embed_dim: int, *, norm: str = "GN") -> None:
        super().__init__(embed_dim, norm)
        self.conv = DilatedDepthwise(embed_dim, 7, 3)

    def extract(self, features: Sequence[Tensor], valid_masks: ValidMasks, level: int) -> Tensor:
        """Return the level plus its dilated 7×7 convolution."""
        return F.relu(self.conv(features[level]) + features[level])


class ContextExpert(_LightExpert):
    """Expert for general objects: adds global context, pooled by attention (Cao et al., GCNet, 2019)."""

    category, name = "general", "context"

    def __init__(self, embed_dim: int, *, norm: str = "GN", reduction: int = 4) -> None:
        super().__init__(embed_dim, norm)
        self.context_mask = nn.Conv2d(embed_dim, 1, 1)
        self.transform = nn.Sequential(
            nn.Linear(embed_dim, embed_dim // reduction), nn.ReLU(), nn.Linear(embed_dim // reduction, embed_dim)
        )

    def extract(self, features: Sequence[Tensor], valid_masks: ValidMasks, level: int) -> Tensor:
        """Return the level plus the transformed context of the whole level."""
        x, mask = features[level], valid_masks[level]
        score = self.context_mask(x).float()
        if mask is not None:
            score = score.masked_fill(~mask, torch.finfo(torch.float32).min)
        weight = score.flatten(2).softmax(dim=-1).to(x.dtype)
        context = (x.flatten(2) * weight).sum(dim=-1)
        return F.relu(x + self.transform(context)[..., None, None])


class FrozenExpert(nn.Module):
    """A pretrained backbone that is never trained, with a 1×1 adapter for each level that is."""

    def __init__(
        self,
        *,
        backbone: nn.Module,
        in_features: Sequence[str],
        in_channels: Sequence[int],
        embed_dim: int,
        category: str = "general",
        name: str = "frozen",
        norm: str = "GN",
        weights: str = "",
    ) -> None:
        """Wrap a backbone.

        Args:
            backbone: maps images (B, 3, H, W) to a dict of feature maps.
            in_features: names of its feature maps, one for each level, finest first; a name may be repeated.
            in_channels: channels of these feature maps.
            embed_dim: C, channels of the levels.
            category: category of experts to which it belongs.
            name: its name in logs and pictures.
            norm: normalisation in the adapters.
            weights: file or URL of the backbone's weights, loaded here; a checkpoint of the detector contains them too.

        Raises:
            ValueError: ``in_features`` and ``in_channels`` differ in length.
        """
        super().__init__()
        if len(in_features) != len(in_channels):
            raise ValueError(
                f"FrozenExpert: in_features {list(in_features)} and in_channels {list(in_channels)} must pair."
            )
        self.category, self.name = category, name
        if weights:
            DetectionCheckpointer(backbone).load(weights)
        self.backbone, self.in_features = backbone.requires_grad_(False).eval(), tuple(in_features)
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, embed_dim, 1, bias=False), get_norm(norm, embed_dim)) for c in in_channels
        )

    def train(self, mode: bool = True) -> FrozenExpert:
        """Set the mode of the adapters; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(
        self, features: Sequence[Tensor], valid_masks: ValidMasks | None = None, image: Tensor | None = None
    ) -> list[Tensor]:
        """Map the image to L levels of the same shapes as ``features``.

        Args:
            features: (B, C, H, W), finest level first; only their shapes are used.
            valid_masks: of the levels; None without padding.
            image: (B, 3, H, W), normalised.

        Raises:
            ValueError: no image, or a number of levels other than that of ``in_features``.
        """
        if image is None:
            raise ValueError("FrozenExpert: needs the image; REM.forward(features, padding_masks, image).")
        if len(features) != len(self.in_features):
            raise ValueError(
                f"FrozenExpert: {len(features)} levels, but in_features {list(self.in_features)}; name one for each."
            )
        with torch.no_grad():
            maps = self.backbone(image)
        result = []
        masks = valid_masks or [None] * len(features)
        for x, name, adapter, mask in zip(features, self.in_features, self.adapters, masks, strict=True):
            resized = F.interpolate(maps[name], size=x.shape[-2:], mode="bilinear", align_corners=False)
            assert isinstance(adapter, nn.Sequential)
            result.append(masked_norm(adapter[1], adapter[0](resized), mask))
        return result
