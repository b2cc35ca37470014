"""Deformable convolution that is fast on processors too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import deform_conv2d as _torchvision

from d2tiny.utils.precision import without_autocast

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
    """Deformable convolution v1; places are computed and read in float32.

    On a GPU it is torchvision's, in float32. On the processor, where torchvision's gradient takes several times as long
    as need be, the taps are read by ``grid_sample`` and multiplied as one matrix, in autocast's type if that is on.

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

    Raises:
        ValueError: offsets of another size than the output's.
    """
    height, width = (
        (cells + 2 * pad - step * (taps - 1) - 1) // move + 1
        for cells, pad, step, taps, move in zip(x.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True)
    )
    if offset.shape != (x.shape[0], 2 * weight.shape[2] * weight.shape[3], height, width):
        expected = (x.shape[0], 2 * weight.shape[2] * weight.shape[3], height, width)
        raise ValueError(f"deform_conv2d: offset must be {expected}, got {tuple(offset.shape)}.")
    with without_autocast(x.device):
        maps, offset, weight = x.float(), offset.float(), weight.float()
        bias = None if bias is None else bias.float()
        if x.device.type != "cpu":
            return _torchvision(maps, offset, weight, bias, stride, padding, dilation).to(x.dtype)
        taps = _read_taps(maps, offset, (weight.shape[-2], weight.shape[-1]), stride, padding, dilation)
    # One matrix of all images: its gradient needs no sum over images.
    out = weight.flatten(1) @ taps.transpose(0, 1).flatten(1)
    out = out.view(weight.shape[0], x.shape[0], *offset.shape[-2:]).transpose(0, 1)
    return (out if bias is None else out + bias[:, None, None]).to(x.dtype)


def _read_taps(
    x: Tensor,
    offset: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """(B, C·k·k, H'·W') what each tap reads at each place."""
    images, channels, height, width = x.shape
    rows, columns = offset.shape[-2:]
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
    return read.view(images, channels * taps, rows * columns)
