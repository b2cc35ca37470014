"""Multi-scale deformable attention on processors: no temporaries, every inner loop along the channels of a head.

``grid_sample`` writes all samples (3.4 GB for an encoder layer of 800² px) before they are weighted. Here each sample
is added where it belongs as it is read. Heads are independent, also in the gradient of the values, so that any number
of threads gives the same bits. The values of a head are copied together, a head at a time: with all heads side by side
their rows would share a few lines of the cache.
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
    """See :func:`d2tiny.layers.deform_attn.ms_deform_attn`; all float32 or all float64."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, sizes: tuple[tuple[int, int], ...], places: Tensor, weights: Tensor) -> Tensor:
        """(B, Q, M·D) from value (B, S, M, D), places (B, Q, M, L, P, 2) and weights (B, Q, M, L, P)."""
        ctx.save_for_backward(value, places, weights)
        ctx.sizes = np.array(sizes, dtype=np.int64).reshape(-1, 2)
        out = value.new_empty(*weights.shape[:3], value.shape[3])
        kernel, _ = _kernels(value.shape[3])
        maps, arrays = value.detach().numpy(), (ctx.sizes, _np(places), _np(weights), out.numpy())
        dense = _dense(value, weights)

        def gather(b: int, m: int) -> None:
            own = maps[b, :, m]
            kernel(np.ascontiguousarray(own) if dense else own, *arrays, b, m)

        _over_heads(gather, weights)
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of value, places and weights."""
        value, places, weights = ctx.saved_tensors
        given = grad.contiguous().view(*weights.shape[:3], -1)
        to_value, to_places, to_weights = (
            torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (value, places, weights)
        )
        _, kernel = _kernels(value.shape[3])
        maps, to_maps = value.numpy(), to_value.numpy()
        arrays = (ctx.sizes, *map(_np, (places, weights, given, to_places, to_weights)))
        dense = _dense(value, weights)

        def scatter(b: int, m: int) -> None:
            own, out = maps[b, :, m], to_maps[b, :, m]
            if not dense:
                kernel(own, out, *arrays, b, m)
                return
            together = np.zeros(out.shape, out.dtype)
            kernel(np.ascontiguousarray(own), together, *arrays, b, m)
            out[:] = together

        _over_heads(scatter, weights)
        return to_value, None, to_places, to_weights


def _dense(value: Tensor, weights: Tensor) -> bool:
    """Whether so many samples read the values of a head that it pays to copy them together."""
    _, queries, _, levels, points = weights.shape
    return queries * levels * points * 4 >= 2 * value.shape[1]


def _np(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def _over_heads(work: Callable[[int, int], None], weights: Tensor) -> None:
    """Every head of every image is one piece of work for PyTorch's threads."""
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
    """Rows of the four cells around a place, inside the map, and its distance from the upper left one."""
    xf, yf = np.floor(x), np.floor(y)
    x0, y0 = int(xf), int(yf)
    left, right = max(x0, 0), min(x0 + 1, width - 1)
    upper, lower = start + max(y0, 0) * width, start + min(y0 + 1, height - 1) * width
    return x0, y0, x - xf, y - yf, upper + left, upper + right, lower + left, lower + right


@functools.lru_cache(maxsize=8)
def _kernels(depth: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Forward and backward for heads of so many channels, a number that the compiler knows."""

    @njit(cache=True, nogil=True, fastmath=_FAST)
    def gather(maps, sizes, places, weights, out, b, m):  # type: ignore[no-untyped-def]
        one, half, zero = maps.dtype.type(1), maps.dtype.type(0.5), maps.dtype.type(0)
        total = np.empty(depth, maps.dtype)
        for q in range(weights.shape[1]):
            total[:] = 0
            start = 0
            for level in range(weights.shape[3]):
                height, width = sizes[level, 0], sizes[level, 1]
                wide, high = maps.dtype.type(width), maps.dtype.type(height)
                for p in range(weights.shape[4]):
                    x = places[b, q, m, level, p, 0] * wide - half
                    y = places[b, q, m, level, p, 1] * high - half
                    if not (x > -one and y > -one and x < wide and y < high):
                        continue
                    x0, y0, fx, fy, c0, c1, c2, c3 = _cells(x, y, height, width, start)
                    weight = weights[b, q, m, level, p]
                    left = weight * (one - fx) if x0 >= 0 else zero
                    right = weight * fx if x0 + 1 < width else zero
                    upper = one - fy if y0 >= 0 else zero
                    lower = fy if y0 + 1 < height else zero
                    w0, w1, w2, w3 = upper * left, upper * right, lower * left, lower * right
                    v0, v1, v2, v3 = maps[c0], maps[c1], maps[c2], maps[c3]
                    for c in range(depth):
                        total[c] += w0 * v0[c] + w1 * v1[c] + w2 * v2[c] + w3 * v3[c]
                start += height * width
            out[b, q, m] = total

    @njit(cache=True, nogil=True, fastmath=_FAST)
    def scatter(maps, out, sizes, places, weights, grad, to_places, to_weights, b, m):  # type: ignore[no-untyped-def]
        one, half, zero = maps.dtype.type(1), maps.dtype.type(0.5), maps.dtype.type(0)
        given = np.empty(depth, maps.dtype)
        for q in range(weights.shape[1]):
            given[:] = grad[b, q, m]
            start = 0
            for level in range(weights.shape[3]):
                height, width = sizes[level, 0], sizes[level, 1]
                wide, high = maps.dtype.type(width), maps.dtype.type(height)
                for p in range(weights.shape[4]):
                    x = places[b, q, m, level, p, 0] * wide - half
                    y = places[b, q, m, level, p, 1] * high - half
                    if not (x > -one and y > -one and x < wide and y < high):
                        continue
                    x0, y0, fx, fy, c0, c1, c2, c3 = _cells(x, y, height, width, start)
                    v0, v1, v2, v3 = maps[c0], maps[c1], maps[c2], maps[c3]
                    d0, d1, d2, d3 = zero, zero, zero, zero
                    for c in range(depth):
                        d0 += given[c] * v0[c]
                        d1 += given[c] * v1[c]
                        d2 += given[c] * v2[c]
                        d3 += given[c] * v3[c]
                    # what lies outside is zero
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
                    to_weights[b, q, m, level, p] = (one - fy) * top + fy * bottom
                    to_places[b, q, m, level, p, 0] = weight * wide * ((one - fy) * (d1 - d0) + fy * (d3 - d2))
                    to_places[b, q, m, level, p, 1] = weight * high * (bottom - top)
                    left = weight * (one - fx) if x0 >= 0 else zero
                    right = weight * fx if x0 + 1 < width else zero
                    upper = one - fy if y0 >= 0 else zero
                    lower = fy if y0 + 1 < height else zero
                    # One after the other: at the border two of these cells may be the same.
                    w0, w1, w2, w3 = upper * left, upper * right, lower * left, lower * right
                    g0, g1, g2, g3 = out[c0], out[c1], out[c2], out[c3]
                    for c in range(depth):
                        g0[c] += w0 * given[c]
                    for c in range(depth):
                        g1[c] += w1 * given[c]
                    for c in range(depth):
                        g2[c] += w2 * given[c]
                    for c in range(depth):
                        g3[c] += w3 * given[c]
                start += height * width

    return gather, scatter
