"""Experts of REM: light ones for tiny and for general objects, and frozen pretrained backbones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import get_norm
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import DilatedDepthwise
from d2tiny.layers.masked_norm import masked_norm
from d2tiny.modeling.transformer.frozen_backbone import FrozenBackbone
from d2tiny.utils.errors import did_you_mean
from d2tiny.utils.tracing import is_traced

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
            finer = _halved(finer, x)
            mask = valid_masks[level]
            finer = finer if mask is None else finer.masked_fill(~mask, 0.0)
        return F.relu(self.conv(x) + finer)


def _halved(finer: Tensor, x: Tensor) -> Tensor:
    """Return the largest value of the cells of a finer level in each cell of ``x``."""
    if not is_traced():
        pooled = F.max_pool2d(finer, 2, 2, ceil_mode=True)
        # the level may not be half of the finer one
        return pooled if pooled.shape == x.shape else F.adaptive_max_pool2d(finer, x.shape[-2:])
    for dim in (2, 3):  # graphs for images of any size cannot compare sizes
        first, last = 2 * torch.arange(x.shape[dim], device=x.device), finer.shape[dim] - 1
        finer = finer.index_select(dim, first).maximum(finer.index_select(dim, (first + 1).clamp(max=last)))
    return finer


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
    """A pretrained backbone that is never trained, with a 1×1 adapter for each level that is.

    The backbone sees each image alone, without the padding of its batch: a foundation model attends to all it is given.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        in_features: Sequence[str],
        embed_dim: int,
        in_channels: Sequence[int] | None = None,
        category: str = "general",
        name: str = "frozen",
        norm: str = "GN",
        weights: str = "",
        in_checkpoint: bool = False,
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
        input_format: str = "RGB",
    ) -> None:
        """Wrap a backbone, and load its weights.

        Args:
            backbone: see :class:`~d2tiny.modeling.transformer.frozen_backbone.FrozenBackbone`.
            in_features: names of its feature maps, one for each level, finest first; a name may be repeated.
            embed_dim: C, channels of the levels.
            in_channels: channels of these feature maps; None asks the backbone's ``output_shape()``.
            category: category of experts to which it belongs.
            name: its name in logs and pictures.
            norm: normalisation in the adapters.
            weights: of the backbone; empty takes those that it names itself, ``random`` none.
            in_checkpoint: keep them in checkpoints of the detector.
            pixel_mean: what the detector normalises images with.
            pixel_std: likewise.
            input_format: order of the channels that the detector reads, ``RGB`` or ``BGR``.

        Raises:
            ValueError: settings that do not fit the backbone, or no weights.
            CheckpointError: the weights cannot be fetched or read, or do not fit.
        """
        super().__init__()
        channels = _channels(backbone, in_features) if in_channels is None else list(in_channels)
        if len(in_features) != len(channels):
            raise ValueError(f"FrozenExpert: in_features {list(in_features)} and in_channels {channels} must pair.")
        self.category, self.name, self.in_features = category, name, tuple(in_features)
        self.backbone = FrozenBackbone(
            backbone,
            weights=weights,
            in_checkpoint=in_checkpoint,
            name=name,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            input_format=input_format,
        )
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, embed_dim, 1, bias=False), get_norm(norm, embed_dim)) for c in channels
        )

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
        masks = valid_masks or [None] * len(features)
        runs = [self.backbone(part) for part in _unpadded(image, masks[0])]
        extent, result = (image.shape[-2], image.shape[-1]), []
        for x, name, adapter, mask in zip(features, self.in_features, self.adapters, masks, strict=True):
            size = (x.shape[-2], x.shape[-1])
            resampled = torch.cat([resampled_map(maps[name], covered, size, extent) for maps, covered in runs])
            assert isinstance(adapter, nn.Sequential)
            result.append(masked_norm(adapter[1], adapter[0](resampled), mask))
        return result


def _channels(backbone: Any, in_features: Sequence[str]) -> list[int]:
    shapes = backbone.output_shape()
    for name in in_features:
        if name not in shapes:
            raise ValueError(f"FrozenExpert: the backbone has no feature map '{name}'. {did_you_mean(name, shapes)}")
    return [shapes[name].channels for name in in_features]


def _unpadded(image: Tensor, valid_mask: Tensor | None) -> list[Tensor]:
    """Return the images (1, 3, h, w) of a batch without what its finest level calls padding; unpadded ones together."""
    if valid_mask is None:
        return [image]
    height, width = (side / cells for side, cells in zip(image.shape[-2:], valid_mask.shape[-2:], strict=True))
    rows, columns = valid_mask[:, 0].any(dim=2).sum(dim=1).tolist(), valid_mask[:, 0].any(dim=1).sum(dim=1).tolist()
    return [
        image[i : i + 1, :, : round(r * height), : round(c * width)]
        for i, (r, c) in enumerate(zip(rows, columns, strict=True))
    ]


def resampled_map(features: Tensor, covered: tuple[int, int], size: tuple[int, int], extent: tuple[int, int]) -> Tensor:
    """Return a feature map on the cells of a level: bilinear between its own cells, a mean over several of them.

    Args:
        features: (B, C, h, w).
        covered: height and width in px that its cells share; their upper left corner is that of the image.
        size: height and width of the level in cells.
        extent: height and width in px that these share. Cells outside what the map covers repeat its border.

    Returns:
        (B, C, *size) float32.
    """
    axes, factors = [], []
    for own, px, cells, side in zip(features.shape[-2:], covered, size, extent, strict=True):
        factor = max(1, round((side / cells) / (px / own)))
        count = cells * factor
        axes.append((torch.arange(count, device=features.device) + 0.5) * (2 * side / count / px) - 1)
        factors.append(factor)
    grid = torch.stack(torch.meshgrid(axes[1], axes[0], indexing="xy"), dim=-1)
    grid = grid.expand(len(features), -1, -1, -1)
    found = F.grid_sample(features.float(), grid, padding_mode="border", align_corners=False)
    return F.avg_pool2d(found, factors) if max(factors) > 1 else found
