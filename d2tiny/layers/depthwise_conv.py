"""Depth-wise convolutions on the CPU where oneDNN has no fast kernel: large or dilated ones.

oneDNN is fast for 3×3 kernels without dilation. The gradient of other kernels' weights is a sum of products of two maps
for each tap and channel, and computed as such here. A convolution with dilation d is one without on each of the d² maps
of every d-th row and column.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from d2tiny.utils.compiled import njit
from d2tiny.utils.precision import without_autocast
from d2tiny.utils.threads import ranges, run_in_threads
from d2tiny.utils.tracing import is_traced

__all__ = ["depthwise_conv2d"]

_Pair = tuple[int, int]
_BLOCK = 256  # channels whose sums stay in the cache next to the core


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d) -> Tensor:
    """Convolve (B, C, H, W) with other weights (C, 1, k, k') than those of ``conv``, whose other settings are taken.

    The result is that of PyTorch up to the rounding of sums, as are the gradients; these have no gradients of their own
    (``create_graph``), and ``torch.func`` does not apply.

    Args:
        x: the input.
        weight: the weights.
        bias: (C,), or None.
        conv: the layer; those with other groups than one a channel are left to PyTorch.
    """
    dilated = max(conv.dilation) > 1
    if _is_ours(x, weight, conv) and (dilated or max(conv.kernel_size) > 3):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
            settings = cast(_Pair, conv.stride), cast(_Pair, conv.padding), cast(_Pair, conv.dilation)
            out: Tensor = _DepthwiseConv.apply(x, weight, bias, *settings)
            return out
        if _phases_pay(conv.kernel_size, conv.stride, conv.dilation):
            return _conv_of_phases(x, weight, bias, conv.padding, conv.dilation)
    return nn.Conv2d._conv_forward(conv, x, weight, bias)


def _is_ours(x: Tensor, weight: Tensor, conv: nn.Conv2d) -> bool:
    """Return whether the input is of float32 on a processor, and the settings are those that are handled here."""
    return (
        not is_traced()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and type(x) is Tensor
        and x.dim() == 4
        and x.numel() > 0
        and conv.groups == conv.in_channels == conv.out_channels == x.shape[1]
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and not torch.is_autocast_enabled("cpu")
    )


def _phases_pay(kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> bool:
    """Return whether a map without gradients is worth taking apart: a dilated 3×3 kernel is nearly as fast."""
    return max(dilation) > 1 and min(kernel) > 3 and max(stride) == 1


def _apart(x: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """Return every d-th row and column of (B, C, H, W) as maps (B · d · d', C, ⌈H / d⌉, ⌈W / d'⌉), padded by zeros."""
    (batch, channels, height, width), (dy, dx) = x.shape, dilation
    rows, columns = math.ceil(height / dy), math.ceil(width / dx)
    cells = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, columns * dx - width, 0, rows * dy - height))
    cells = cells.reshape(batch, rows, dy, columns, dx, channels).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(batch * dy * dx, rows, columns, channels).permute(0, 3, 1, 2)


def _together(maps: Tensor, dilation: tuple[int, ...], shape: torch.Size) -> Tensor:
    """Return the map of this shape that :func:`_apart` took apart."""
    (batch, channels, height, width), (dy, dx) = shape, dilation
    rows, columns = maps.shape[-2:]
    cells = maps.permute(0, 2, 3, 1).reshape(batch, dy, dx, rows, columns, channels).permute(0, 3, 1, 4, 2, 5)
    # A copy: a custom function may not return a view, which no layer behind it could change in place.
    out = maps.new_empty(shape).contiguous(memory_format=torch.channels_last)
    return out.copy_(cells.reshape(batch, rows * dy, columns * dx, channels)[:, :height, :width].permute(0, 3, 1, 2))


def _conv_of_phases(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Any, dilation: Any) -> Tensor:
    """Convolve with stride 1 each of the maps that the dilation keeps apart."""
    (height, width), (tall, wide) = x.shape[-2:], weight.shape[-2:]
    shape = torch.Size(
        (
            *x.shape[:2],
            height + 2 * padding[0] - dilation[0] * (tall - 1),
            width + 2 * padding[1] - dilation[1] * (wide - 1),
        )
    )
    # Zeros on all sides once, so that each map needs none.
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0])).permute(0, 3, 1, 2)
    out = F.conv2d(_apart(x, dilation), weight, bias, groups=len(weight))
    return _together(out, dilation, shape)


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: _Pair, padding: _Pair, dilation: _Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = stride, padding, dilation
        if _phases_pay(weight.shape[-2:], stride, dilation):
            return _conv_of_phases(x, weight, bias, padding, dilation)
        return F.conv2d(x, weight, bias, stride, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (stride, padding, dilation) = ctx.saved_tensors, ctx.settings
        grads: list[Tensor | None] = [None, None, None]
        if ctx.needs_input_grad[0] and max(stride) == 1 and max(dilation) > 1:
            # The transposed operation: the kernel turned round, over what the forward pass padded.
            reach = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[-2:], padding, strict=True)]
            with without_autocast(grad.device):
                grads[0] = _conv_of_phases(grad, weight.flip(2, 3), None, reach, dilation)
        elif ctx.needs_input_grad[0]:
            only_x = [True, False, False]
            grads[0] = torch.ops.aten.convolution_backward(
                grad, x, weight, None, stride, padding, dilation, False, [0, 0], len(weight), only_x
            )[0]
        if ctx.needs_input_grad[1]:
            grads[1] = _weight_gradient(x, grad, weight.shape[-2:], stride, padding, dilation)
        if ctx.needs_input_grad[2]:
            grads[2] = grad.sum((0, 2, 3))
        return *grads, None, None, None


def _weight_gradient(
    x: Tensor, grad: Tensor, kernel: torch.Size, stride: _Pair, padding: _Pair, dilation: _Pair
) -> Tensor:
    """Return the gradient (C, 1, k, k') of the weights, with PyTorch's number of threads."""
    channels = x.shape[1]
    maps, grads = (t.detach().permute(0, 2, 3, 1).contiguous().numpy() for t in (x, grad))
    out = x.new_empty((*kernel, channels))
    arguments = maps, grads, out.numpy(), (*stride, *padding, *dilation)
    run_in_threads(_add_products, ((*arguments, *part) for part in ranges(channels, _BLOCK)))
    return out.permute(2, 0, 1).unsqueeze(1)


@njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def _add_products(maps, grads, out, settings, start, stop):  # type: ignore[no-untyped-def]
    """Write to out (k, k', C) the sums of products of maps (B, H, W, C) and gradients (B, h, w, C), in these channels.

    The sums of each row of gradients are added up on their own, which loses fewer digits.
    """
    stride_y, stride_x, top, left, step_y, step_x = settings
    height, width = maps.shape[1], maps.shape[2]
    rows, columns, channels = out.shape[0], out.shape[1], stop - start
    total, part = np.zeros((rows, columns, channels), np.float32), np.empty((rows, columns, channels), np.float32)
    for b in range(grads.shape[0]):
        for i in range(grads.shape[1]):
            part[:] = 0
            for row in range(rows):
                y = i * stride_y - top + row * step_y
                if y < 0 or y >= height:
                    continue
                for j in range(grads.shape[2]):
                    grad = grads[b, i, j, start:stop]
                    for column in range(columns):
                        x = j * stride_x - left + column * step_x
                        if x < 0 or x >= width:
                            continue
                        cell, tap = maps[b, y, x, start:stop], part[row, column]
                        for c in range(channels):
                            tap[c] += cell[c] * grad[c]
            for row in range(rows):
                for column in range(columns):
                    for c in range(channels):
                        total[row, column, c] += part[row, column, c]
    out[:, :, start:stop] = total
