"""Multi-level feature maps flattened to one sequence of tokens, as in Deformable DETR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from d2tiny.layers.deform_attn_functions import level_sides
from d2tiny.layers.padding import extents, first_pixel

__all__ = ["Tokens", "flatten_maps", "has_padding", "padding_masks", "ratios_of_strides"]


@dataclass(frozen=True)
class Tokens:
    """The cells of all levels of a batch in one sequence, S = Σ H·W tokens, finest level first.

    Attributes:
        features: (B, S, C).
        pos_embed: (B, S, C) sine embedding of the cell plus learned embedding of the level.
        key_padding_mask: (B, S) boolean, True for padding cells.
        spatial_shapes: (H, W) of the L levels.
        valid_ratios: (B, L, 2) share of each padded map's width and height that the image takes.
        has_padding: whether any cell is padding.
        by_strides: whether cells are as many px as their strides say (:func:`ratios_of_strides`).
    """

    features: Tensor
    pos_embed: Tensor
    key_padding_mask: Tensor
    spatial_shapes: tuple[tuple[int, int], ...]
    valid_ratios: Tensor
    has_padding: bool = True
    by_strides: bool = False

    @property
    def padding(self) -> Tensor | None:
        """``key_padding_mask``, or None if there is no padding: nothing needs to be masked."""
        return self.key_padding_mask if self.has_padding else None

    def maps(self, features: Tensor) -> list[Tensor]:
        """Return (B, S, C) of the tokens as L feature maps (B, C, H, W)."""
        parts = features.split([h * w for h, w in self.spatial_shapes], dim=1)
        return [p.transpose(1, 2).unflatten(2, size) for p, size in zip(parts, self.spatial_shapes, strict=True)]

    def padding_maps(self) -> list[Tensor] | None:
        """Return the padding of the L levels, (B, 1, H, W) boolean; None if there is none."""
        return self.maps(self.key_padding_mask[..., None]) if self.has_padding else None

    def valid_sizes(self, level: int) -> list[tuple[int, int]]:
        """Return the (height, width) in whole cells of each image on a level, without padding."""
        rows, columns = extents(self.maps(self.key_padding_mask[..., None])[level])
        return list(zip(rows.tolist(), columns.tolist(), strict=True))

    def valid_extents(self, level: int) -> Tensor:
        """Return the (B, 2) width and height of each image in cells of a level, which need not be whole."""
        height, width = self.spatial_shapes[level]
        return self.valid_ratios[:, level] * self.valid_ratios.new_tensor((width, height))

    @cached_property
    def level_index(self) -> Tensor:
        """(S,) int64 level of each token, 0 for the finest."""
        device = self.features.device
        return torch.cat([torch.full((h * w,), i, device=device) for i, (h, w) in enumerate(self.spatial_shapes)])

    @cached_property
    def reference_points(self) -> Tensor:
        """(B, S, 2) centres x, y of the cells in shares of the image; above 1 in the padding."""
        parts = []
        for level, (height, width) in enumerate(self.spatial_shapes):
            y, x = torch.meshgrid(
                torch.arange(height, device=self.features.device) + 0.5,
                torch.arange(width, device=self.features.device) + 0.5,
                indexing="ij",
            )
            centres = torch.stack((x / width, y / height), dim=-1).view(1, -1, 2)
            parts.append(centres / self.valid_ratios[:, level, None])
        return torch.cat(parts, dim=1)

    @cached_property
    def cell_sizes(self) -> Tensor:
        """(B, S, 2) width and height of each token's cell in shares of the image."""
        sides = 1 / level_sides(self.spatial_shapes, self.valid_ratios)
        return (sides / self.valid_ratios)[:, self.level_index]

    def per_level(self, reference_points: Tensor) -> Tensor:
        """Convert shares of the image to shares of each level's padded map.

        Args:
            reference_points: (B, Q, 2) points or (B, Q, 4) boxes in shares of the image.

        Returns:
            (B, Q, L, 2) or (B, Q, L, 4), as :class:`~d2tiny.layers.deform_attn.MSDeformAttn` takes them.
        """
        points = reference_points.shape[-1] == 2
        scale = self.valid_ratios if points else self.valid_ratios.repeat(1, 1, 2)
        return reference_points[:, :, None] * scale[:, None]


def flatten_maps(
    features: Sequence[Tensor],
    pos_embeds: Sequence[Tensor],
    masks: Sequence[Tensor],
    level_embed: Tensor,
    *,
    has_padding: bool = True,
    valid_ratios: Tensor | None = None,
) -> Tokens:
    """Flatten feature maps to tokens.

    Args:
        features: L feature maps (B, C, H, W), finest first.
        pos_embeds: their L position embeddings (B, C, H, W).
        masks: their L padding masks (B, H, W), boolean, True for padding cells.
        level_embed: (L, C) embeddings of the levels.
        has_padding: False if no cell is padding, which saves masking.
        valid_ratios: (B, L, 2) of :func:`ratios_of_strides`; None for the share of whole cells, as in released DETRs.
    """
    pos_embed = [(p.flatten(2).transpose(1, 2) + level_embed[i]) for i, p in enumerate(pos_embeds)]
    by_strides = valid_ratios is not None
    if valid_ratios is None:
        ratios = []
        for mask in masks:
            valid = ~mask
            ratios.append(torch.stack((valid[:, 0].float().mean(dim=1), valid[:, :, 0].float().mean(dim=1)), dim=-1))
        valid_ratios = torch.stack(ratios, dim=1)
    return Tokens(
        torch.cat([f.flatten(2).transpose(1, 2) for f in features], dim=1),
        torch.cat(pos_embed, dim=1),
        torch.cat([m.flatten(1) for m in masks], dim=1),
        tuple((f.shape[2], f.shape[3]) for f in features),
        valid_ratios,
        has_padding,
        by_strides,
    )


def ratios_of_strides(sizes: Tensor, strides: Sequence[int], features: Sequence[Tensor]) -> Tensor:
    """Return which share of each map an image takes if a cell is as many px as the stride of its level.

    Where a side is no multiple of the stride, the image ends inside the last cell. Released DETRs take that cell as a
    whole one: of 317 px at stride 4 they count 80 cells, and place what lies at the right edge 3 px too far left.

    Args:
        sizes: (B, 2) height and width of the images in px.
        strides: of the L levels in px.
        features: L feature maps (B, C, H, W).

    Returns:
        (B, L, 2) shares of width and height, float32; over 1 where a map ends before its image.
    """
    sizes = sizes.flip(-1).float()
    cells = level_sides(tuple((m.shape[2], m.shape[3]) for m in features), sizes)
    return sizes[:, None] / (cells * sizes.new_tensor(strides)[:, None])


def has_padding(
    image_sizes: Sequence[tuple[int, int]], padded_size: Sequence[int], finest: Tensor, stride: int | None = None
) -> bool:
    """Return whether any cell of :func:`padding_masks` is padding, without waiting for a GPU.

    Args:
        image_sizes: (height, width) of each image in px.
        padded_size: of the padded batch in px.
        finest: (B, C, H, W) feature map.
        stride: of it in px; None divides the padded batch evenly.
    """
    sides = zip(finest.shape[-2:], padded_size, strict=True)
    last = [first_pixel(cells - 1, cells, pixels, stride) for cells, pixels in sides]
    return any(int(height) <= last[0] or int(width) <= last[1] for height, width in image_sizes)


def padding_masks(
    sizes: Tensor, padded_size: Sequence[int], features: Sequence[Tensor], strides: Sequence[int] | None = None
) -> list[Tensor]:
    """Return a padding mask (B, H, W) for each feature map: True where a cell's upper left pixel is outside its image.

    Args:
        sizes: (B, 2) height and width of each image in px.
        padded_size: (height, width) of the padded batch in px.
        features: L feature maps (B, C, H, W).
        strides: of the L levels in px, of which a cell is as many; None divides the padded batch evenly, as released
            DETRs do.
    """
    masks = []
    for level, feature in enumerate(features):
        outside = []
        for side, (cells, pixels) in enumerate(zip(feature.shape[-2:], padded_size, strict=True)):
            stride = None if strides is None else strides[level]
            first = first_pixel(torch.arange(cells, device=feature.device), cells, pixels, stride)
            outside.append(first >= sizes[:, side, None])
        masks.append(outside[0][:, :, None] | outside[1][:, None])
    return masks
