"""Which places of a batch are padding, for pooling over images of different sizes."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

from d2tiny.utils.tracing import is_traced

_Index = TypeVar("_Index", int, Tensor)

__all__ = ["extents", "first_pixel", "masked_max", "masked_mean", "padding_of_images", "padding_of_level"]


def padding_of_images(images: Tensor) -> Tensor | None:
    """Return where a batch is padding: rows below, and columns right of, the last that is not 0 everywhere.

    Detectron2 pads normalised images with 0 and hands the backbone no sizes. Rows and columns at the lower and right
    edge of an image that are exactly its mean colour count as padding; they hold nothing that pooling would miss.

    Args:
        images: (B, C, H, W), normalised and padded.

    Returns:
        (B, 1, H, W), True in the padding; None if there is none, but never in a graph that is recorded, which cannot
        depend on that.
    """
    if images.is_meta:  # shapes only, where costs are counted
        return None
    content = (images != 0).any(dim=1, keepdim=True)
    rows, columns = _until_last(content.any(dim=3, keepdim=True), 2), _until_last(content.any(dim=2, keepdim=True), 3)
    padding = ~(rows & columns)
    # An image of one colour, its mean, would be padding altogether.
    padding &= content.flatten(1).any(dim=1)[:, None, None, None]
    return padding if is_traced() or bool(padding.any()) else None


def _until_last(content: Tensor, dim: int) -> Tensor:
    """Return where a later place along a dimension, or the place itself, has content."""
    return content.flip(dim).int().cumsum(dim).flip(dim) > 0  # there is no ONNX operator for cummax


def first_pixel(cell: _Index, cells: int, pixels: int, stride: int | None) -> _Index:
    """Return the first pixel of cells of a map, whose side has so many cells for so many px of the padded batch.

    Args:
        cell: an index, or a tensor of them.
        cells: of the side.
        pixels: of the side.
        stride: px of a cell; 800 px are 13 cells of 64. None divides the side evenly, as released DETRs do.
    """
    return cell * pixels // cells if stride is None else cell * stride


def padding_of_level(padding: Tensor, level: Tensor) -> Tensor:
    """Return the cells of a feature map that see nothing but padding, (B, 1, h, w).

    Args:
        padding: (B, 1, H, W) of :func:`padding_of_images`.
        level: (B, C, h, w), a feature map of these images.
    """
    # What is not padding begins in the upper left corner, so that a cell sees some if its first pixel is some.
    for dim in (2, 3):
        cells, pixels = level.shape[dim], padding.shape[dim]
        # In a recorded graph, whose sides are no numbers, strides divide them, or nothing is padded.
        stride = None if is_traced() else 2 ** round(math.log2(pixels / cells))
        first = first_pixel(torch.arange(cells, device=padding.device), cells, pixels, stride)
        padding = padding.index_select(dim, first)
    return padding


def masked_mean(x: Tensor, padding: Tensor | None) -> Tensor:
    """Return the mean of (B, C, h, w) over the places that are not padding, (B, C, 1, 1)."""
    if padding is None:
        return x.mean((2, 3), keepdim=True)
    exact = torch.promote_types(x.dtype, torch.float32)  # half precision counts places up to 256
    inside = (~padding).to(exact)
    total = x.masked_fill(padding, 0).sum((2, 3), keepdim=True, dtype=exact)
    return (total / inside.sum((2, 3), keepdim=True)).to(x.dtype)


def masked_max(x: Tensor, padding: Tensor | None) -> Tensor:
    """Return the maximum of (B, C, h, w) over the places that are not padding, (B, C, 1, 1)."""
    return (x if padding is None else x.masked_fill(padding, -torch.inf)).amax((2, 3), keepdim=True)


def extents(padding: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows and columns of each image that are not padding, both (B,) int64.

    Args:
        padding: (B, 1, h, w), below and right of the images.
    """
    inside = ~padding[:, 0]
    return inside.any(dim=2).sum(dim=1), inside.any(dim=1).sum(dim=1)
