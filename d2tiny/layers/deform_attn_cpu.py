"""Multi-scale deformable attention on CPUs: no intermediate tensors, inner loops along the channels of a head.

``grid_sample`` writes all samples before they are weighted, 3.4 GB in an encoder layer of 800² px. Here each sample is
added to its sum as it is read. Heads are independent, also in the gradient of the values, so that any number of threads
gives the same bits. The values of one head are first copied into a contiguous array: with all heads interleaved, their
rows would compete for a few cache lines.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["DeformAttnCPU"]

_FAST = {"reassoc", "contract", "nsz"}  # NaN and infinity keep their meaning


class DeformAttnCPU(torch.autograd.Function):
    """Autograd function of :func:`d2tiny.layers.deform_attn.ms_deform_attn`; all float32 or all float64."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        spatial_shapes: tuple[tuple[int, int], ...],
        sampling_locations: Tensor,
        attention_weights: Tensor,
    ) -> Tensor:
        """Return (B, Q, M·D) for value (B, S, M, D), locations (B, Q, M, L, P, 2) and weights (B, Q, M, L, P)."""
        ctx.save_for_backward(value, sampling_locations, attention_weights)
        ctx.spatial_shapes = np.array(spatial_shapes, dtype=np.int64).reshape(-1, 2)
        out = value.new_empty(*attention_weights.shape[:3], value.shape[3])
        kernel, _ = _kernels(value.shape[3])
        values = value.detach().numpy()
        arrays = (ctx.spatial_shapes, _np(sampling_locations), _np(attention_weights), out.numpy())
        copy = _worth_copying(value, attention_weights)

        def gather(b: int, m: int) -> None:
            head = values[b, :, m]
            kernel(np.ascontiguousarray(head) if copy else head, *arrays, b, m)

        _for_each_head(gather, attention_weights)
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of value, sampling locations and attention weights."""
        value, locations, weights = ctx.saved_tensors
        grad_out = grad.contiguous().view(*weights.shape[:3], -1)
        grad_value, grad_locations, grad_weights = (
            torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (value, locations, weights)
        )
        _, kernel = _kernels(value.shape[3])
        values, grad_values = value.numpy(), grad_value.numpy()
        arrays = (ctx.spatial_shapes, *map(_np, (locations, weights, grad_out, grad_locations, grad_weights)))
        copy = _worth_copying(value, weights)

        def scatter(b: int, m: int) -> None:
            head, grad_head = values[b, :, m], grad_values[b, :, m]
            if not copy:
                kernel(head, grad_head, *arrays, b, m)
                return
            contiguous = np.zeros(grad_head.shape, grad_head.dtype)
            kernel(np.ascontiguousarray(head), contiguous, *arrays, b, m)
            grad_head[:] = contiguous

        _for_each_head(scatter, weights)
        return grad_value, None, grad_locations, grad_weights


def _worth_copying(value: Tensor, weights: Tensor) -> bool:
    """Return whether the values of a head are read so often that a contiguous copy of them pays."""
    _, queries, _, levels, points = weights.shape
    return queries * levels * points * 4 >= 2 * value.shape[1]


def _np(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def _for_each_head(work: Callable[[int, int], None], weights: Tensor) -> None:
    """Call ``work(image, head)`` for all heads of all images on as many threads as PyTorch uses."""
    pieces = [(b, m) for b in range(weights.shape[0]) for m in range(weights.shape[2])]
    workers = min(torch.get_num_threads(), len(pieces))
    if workers <= 1:
        for piece in pieces:
            work(*piece)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda piece: work(*piece), pieces))


@njit(cache=True, nogil=True, inline="always")
def _cells(x, y, height, width, start):  # type: ignore[no-untyped-def]
    """Return column and row of the upper left neighbour, the distances to it, and the rows of the four neighbours.

    Neighbours outside the map are moved to its border; the caller gives them the weight zero.
    """
    xf, yf = np.floor(x), np.floor(y)
    x0, y0 = int(xf), int(yf)
    left, right = max(x0, 0), min(x0 + 1, width - 1)
    upper, lower = start + max(y0, 0) * width, start + min(y0 + 1, height - 1) * width
    return x0, y0, x - xf, y - yf, upper + left, upper + right, lower + left, lower + right


@functools.lru_cache(maxsize=8)
def _kernels(depth: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Compile forward and backward for heads of ``depth`` channels; a constant lets the compiler vectorise."""

    @njit(cache=True, nogil=True, fastmath=_FAST)
    def gather(values, spatial_shapes, locations, weights, out, b, m):  # type: ignore[no-untyped-def]
        one, half, zero = values.dtype.type(1), values.dtype.type(0.5), values.dtype.type(0)
        total = np.empty(depth, values.dtype)
        for q in range(weights.shape[1]):
            total[:] = 0
            start = 0
            for level in range(weights.shape[3]):
                height, width = spatial_shapes[level, 0], spatial_shapes[level, 1]
                wide, high = values.dtype.type(width), values.dtype.type(height)
                for p in range(weights.shape[4]):
                    x = locations[b, q, m, level, p, 0] * wide - half
                    y = locations[b, q, m, level, p, 1] * high - half
                    if not (x > -one and y > -one and x < wide and y < high):
                        continue
                    x0, y0, fx, fy, c0, c1, c2, c3 = _cells(x, y, height, width, start)
                    weight = weights[b, q, m, level, p]
                    left = weight * (one - fx) if x0 >= 0 else zero
                    right = weight * fx if x0 + 1 < width else zero
                    upper = one - fy if y0 >= 0 else zero
                    lower = fy if y0 + 1 < height else zero
                    w0, w1, w2, w3 = upper * left, upper * right, lower * left, lower * right
                    v0, v1, v2, v3 = values[c0], values[c1], values[c2], values[c3]
                    for c in range(depth):
                        total[c] += w0 * v0[c] + w1 * v1[c] + w2 * v2[c] + w3 * v3[c]
                start += height * width
            out[b, q, m] = total

    @njit(cache=True, nogil=True, fastmath=_FAST)
    def scatter(  # type: ignore[no-untyped-def]
        values, grad_values, spatial_shapes, locations, weights, grad_out, grad_locations, grad_weights, b, m
    ):
        one, half, zero = values.dtype.type(1), values.dtype.type(0.5), values.dtype.type(0)
        grad_query = np.empty(depth, values.dtype)
        for q in range(weights.shape[1]):
            grad_query[:] = grad_out[b, q, m]
            start = 0
            for level in range(weights.shape[3]):
                height, width = spatial_shapes[level, 0], spatial_shapes[level, 1]
                wide, high = values.dtype.type(width), values.dtype.type(height)
                for p in range(weights.shape[4]):
                    x = locations[b, q, m, level, p, 0] * wide - half
                    y = locations[b, q, m, level, p, 1] * high - half
                    if not (x > -one and y > -one and x < wide and y < high):
                        continue
                    x0, y0, fx, fy, c0, c1, c2, c3 = _cells(x, y, height, width, start)
                    v0, v1, v2, v3 = values[c0], values[c1], values[c2], values[c3]
                    d0, d1, d2, d3 = zero, zero, zero, zero
                    for c in range(depth):
                        d0 += grad_query[c] * v0[c]
                        d1 += grad_query[c] * v1[c]
                        d2 += grad_query[c] * v2[c]
                        d3 += grad_query[c] * v3[c]
                    # values outside the map are zero
                    if x0 < 0:
                        d0, d2 = zero, zero
                    if x0 + 1 >= width:
                        d1, d3 = zero, zero
                    if y0 < 0:
                        d0, d1 = zero, zero
                    if y0 + 1 >= height:
                        d2, d3 = zero, zero
                    weight = weights[b, q, m, level, p]
                    top, bottom = (one - fx) * d0 + fx * d1, (one - fx) * d2 + fx * d3
                    grad_weights[b, q, m, level, p] = (one - fy) * top + fy * bottom
                    grad_locations[b, q, m, level, p, 0] = weight * wide * ((one - fy) * (d1 - d0) + fy * (d3 - d2))
                    grad_locations[b, q, m, level, p, 1] = weight * high * (bottom - top)
                    left = weight * (one - fx) if x0 >= 0 else zero
                    right = weight * fx if x0 + 1 < width else zero
                    upper = one - fy if y0 >= 0 else zero
                    lower = fy if y0 + 1 < height else zero
                    # In separate loops: at the border two of these neighbours may be the same cell.
                    w0, w1, w2, w3 = upper * left, upper * right, lower * left, lower * right
                    g0, g1, g2, g3 = grad_values[c0], grad_values[c1], grad_values[c2], grad_values[c3]
                    for c in range(depth):
                        g0[c] += w0 * grad_query[c]
                    for c in range(depth):
                        g1[c] += w1 * grad_query[c]
                    for c in range(depth):
                        g2[c] += w2 * grad_query[c]
                    for c in range(depth):
                        g3[c] += w3 * grad_query[c]
                start += height * width

    return gather, scatter
