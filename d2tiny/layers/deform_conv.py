"""Deformable convolution that is fast on processors too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import deform_conv2d as _torchvision

__all__ = ["deform_conv2d"]


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Deformable convolution v1, computed in float32.

    On a GPU it is torchvision's. On the processor, where torchvision's gradient takes several times as long as need be,
    the taps are read by ``grid_sample`` and multiplied as one matrix.

    Args:
        x: (B, C, H, W).
        offset: (B, 2·k·k, H', W') dy, dx of each tap in px.
        weight: (O, C, k, k).
        bias: (O,).
        stride: y, x.
        padding: y, x, with zeros.
        dilation: y, x.

    Returns:
        (B, O, H', W') in x's type.
    """
    with torch.autocast(x.device.type, enabled=False):
        given = (x.float(), offset.float(), weight.float(), None if bias is None else bias.float())
        if x.device.type == "cpu":
            out = _by_grid_sample(*given, stride, padding, dilation)
        else:
            out = _torchvision(*given, stride, padding, dilation)
    return out.to(x.dtype)


def _by_grid_sample(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    images, channels, height, width = x.shape
    rows, columns = offset.shape[-2:]
    kernel = weight.shape[-2:]
    taps = kernel[0] * kernel[1]
    moved = offset.view(images, taps, 2, rows, columns)
    positions = []
    for axis, (size, count) in enumerate(((height, rows), (width, columns))):
        tap = torch.arange(kernel[axis], device=x.device) * dilation[axis] - padding[axis]
        shape = (-1, 1) if axis == 0 else (1, -1)
        tap = tap.view(shape).expand(*kernel).reshape(taps, 1, 1)
        cell = (torch.arange(count, device=x.device) * stride[axis]).view(shape)
        place = moved[:, :, axis] + (tap + cell)  # px
        positions.append((2 * place + 1) / size - 1)  # grid_sample's units, pixel centres at half steps
    grid = torch.stack((positions[1], positions[0]), dim=-1).view(images, taps * rows, columns, 2)
    read = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    read = read.view(images, channels * taps, rows * columns)
    out = (weight.flatten(1) @ read).view(images, -1, rows, columns)
    return out if bias is None else out + bias[:, None, None]
