"""Feature maps as one row of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Tokens", "flatten_maps", "padding_masks"]


@dataclass(frozen=True)
class Tokens:
    """The cells of all levels of a batch, S = Σ H·W, finest level first.

    Attributes:
        features: (B, S, C).
        position: (B, S, C) embedding of place and level.
        padding: (B, S) boolean, cells that are none of the image.
        sizes: (H, W) of the levels.
        valid: (B, L, 2) share of each level's width and height that is image.
    """

    features: Tensor
    position: Tensor
    padding: Tensor
    sizes: tuple[tuple[int, int], ...]
    valid: Tensor

    @cached_property
    def level(self) -> Tensor:
        """(S,) level of each token."""
        counts = torch.tensor([h * w for h, w in self.sizes])
        return torch.repeat_interleave(torch.arange(len(self.sizes)), counts).to(self.features.device)

    @cached_property
    def centres(self) -> Tensor:
        """(B, S, 2) middles of the cells as shares of the image's width and height; over 1 in the padding."""
        parts = []
        for level, (height, width) in enumerate(self.sizes):
            y, x = torch.meshgrid(
                torch.arange(height, device=self.features.device) + 0.5,
                torch.arange(width, device=self.features.device) + 0.5,
                indexing="ij",
            )
            cells = torch.stack((x / width, y / height), dim=-1).view(1, -1, 2)
            parts.append(cells / self.valid[:, level, None])
        return torch.cat(parts, dim=1)

    @cached_property
    def cell(self) -> Tensor:
        """(B, S, 2) width and height of each token's cell as shares of the image."""
        sides = torch.tensor([(1 / w, 1 / h) for h, w in self.sizes], device=self.features.device)
        return (sides / self.valid)[:, self.level]

    def places(self, shares: Tensor) -> Tensor:
        """(B, N, L, 2 or 4) places in the padded maps from points or boxes (B, N, 2 or 4) in shares of the image."""
        scale = self.valid if shares.shape[-1] == 2 else self.valid.repeat(1, 1, 2)
        return shares[:, :, None] * scale[:, None]


def flatten_maps(
    maps: Sequence[Tensor], positions: Sequence[Tensor], paddings: Sequence[Tensor], level_embed: Tensor
) -> Tokens:
    """Make tokens.

    Args:
        maps: L levels (B, C, H, W).
        positions: likewise.
        paddings: L levels (B, H, W) boolean.
        level_embed: (L, C).
    """
    position = [(p.flatten(2).transpose(1, 2) + level_embed[i]) for i, p in enumerate(positions)]
    valid = []
    for padding in paddings:
        inside = ~padding
        share = torch.stack((inside[:, 0].float().mean(dim=1), inside[:, :, 0].float().mean(dim=1)), dim=-1)
        valid.append(share)
    return Tokens(
        torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1),
        torch.cat(position, dim=1),
        torch.cat([p.flatten(1) for p in paddings], dim=1),
        tuple((m.shape[2], m.shape[3]) for m in maps),
        torch.stack(valid, dim=1),
    )


def padding_masks(sizes: Sequence[tuple[int, int]], padded: tuple[int, int], maps: Sequence[Tensor]) -> list[Tensor]:
    """(B, H, W) for each map: whether the upper left px of a cell lies outside its image.

    Args:
        sizes: (height, width) of the images.
        padded: height, width of the batch.
        maps: (B, C, H, W).
    """
    full = torch.ones(len(sizes), *padded, dtype=torch.bool, device=maps[0].device)
    for i, (height, width) in enumerate(sizes):
        full[i, :height, :width] = False
    return [F.interpolate(full[:, None].float(), size=m.shape[-2:], mode="nearest")[:, 0].bool() for m in maps]
