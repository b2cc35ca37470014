"""Deformable convolution with a fast implementation for the CPU."""

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
    """Apply a deformable convolution v1 (Dai et al., ICCV 2017); sampling locations are always float32.

    On a GPU this is torchvision's implementation in float32. On the CPU, where torchvision's gradient is several times
    slower, ``grid_sample`` reads the kernel taps and one matrix product applies the weights, in autocast's dtype if
    autocast is on.

    Args:
        x: (B, C, H, W) input.
        offset: (B, 2·k·k, H', W') offsets dy, dx of each kernel tap in px.
        weight: (O, C, k, k).
        bias: (O,) or None.
        stride: in y and x.
        padding: zero padding in y and x.
        dilation: in y and x.

    Returns:
        (B, O, H', W') in the dtype of x.

    Raises:
        ValueError: the shape of ``offset`` is not that of the output.
    """
    height, width = (
        (size + 2 * pad - dilate * (kernel - 1) - 1) // step + 1
        for size, pad, dilate, kernel, step in zip(
            x.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True
        )
    )
    if offset.shape != (x.shape[0], 2 * weight.shape[2] * weight.shape[3], height, width):
        expected = (x.shape[0], 2 * weight.shape[2] * weight.shape[3], height, width)
        raise ValueError(f"deform_conv2d: offset must be {expected}, got {tuple(offset.shape)}.")
    with without_autocast(x.device):
        maps, offset, weight = x.float(), offset.float(), weight.float()
        bias = None if bias is None else bias.float()
        if x.device.type != "cpu":
            return _torchvision(maps, offset, weight, bias, stride, padding, dilation).to(x.dtype)
        taps = _sample_taps(maps, offset, (weight.shape[-2], weight.shape[-1]), stride, padding, dilation)
    # One matrix product over all images, so that the weight gradient needs no sum over images.
    out = weight.flatten(1) @ taps.transpose(0, 1).flatten(1)
    out = out.view(weight.shape[0], x.shape[0], *offset.shape[-2:]).transpose(0, 1)
    return (out if bias is None else out + bias[:, None, None]).to(x.dtype)


def _sample_taps(
    x: Tensor,
    offset: Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Return the (B, C·k·k, H'·W') input values that each kernel tap samples at each output location."""
    images, channels, height, width = x.shape
    rows, columns = offset.shape[-2:]
    taps = kernel[0] * kernel[1]
    offsets = offset.view(images, taps, 2, rows, columns)
    positions = []
    for axis, (size, count) in enumerate(((height, rows), (width, columns))):
        tap = torch.arange(kernel[axis], device=x.device) * dilation[axis] - padding[axis]
        shape = (-1, 1) if axis == 0 else (1, -1)
        tap = tap.view(shape).expand(*kernel).reshape(taps, 1, 1)
        cell = (torch.arange(count, device=x.device) * stride[axis]).view(shape)
        location = offsets[:, :, axis] + (tap + cell)  # px
        positions.append((2 * location + 1) / size - 1)  # normalised as grid_sample without align_corners expects
    grid = torch.stack((positions[1], positions[0]), dim=-1).view(images, taps * rows, columns, 2)
    sampled = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.view(images, channels * taps, rows * columns)
