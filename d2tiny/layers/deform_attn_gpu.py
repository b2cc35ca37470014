# mypy: allow-untyped-defs
"""Multi-scale deformable attention as Triton kernels: samples stay in registers, as on processors.

One program computes a block of queries of one head. Gradients of values are added atomically in float32: their order,
and so the last bits, may differ between calls.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["DeformAttnGPU"]

_BLOCK = 16  # queries of a program


@triton.jit
def _corner(base, x, y, width, height, start, live, stride, d, depth):
    """Values (block, D) of a cell for each query, zero outside the map; and where they are."""
    inside = live & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    row = base + (start + y * width + x).to(tl.int64) * stride
    mask = inside[:, None] & (d < depth)[None, :]
    return row[:, None] + d[None, :], mask


@triton.jit
def _forward(
    value,
    sizes,
    places,
    weights,
    out,
    queries,
    cells,
    heads,
    depth,
    L: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    head = tl.program_id(1)
    b, m = head // heads, head % heads
    q = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D)
    live = q < queries
    entry = ((b * queries + q).to(tl.int64) * heads + m) * (L * P)
    base = value + (b.to(tl.int64) * cells * heads + m) * depth
    total = tl.zeros((BLOCK, D), tl.float32)
    start = 0
    for level in range(L):
        height, width = tl.load(sizes + 2 * level), tl.load(sizes + 2 * level + 1)
        for p in range(P):
            i = entry + level * P + p
            x = tl.load(places + 2 * i, mask=live, other=-9.0) * width - 0.5
            y = tl.load(places + 2 * i + 1, mask=live, other=-9.0) * height - 0.5
            weight = tl.load(weights + i, mask=live, other=0.0)
            near = live & (x > -1) & (y > -1) & (x < width) & (y < height)
            x, y = tl.where(near, x, 0.0), tl.where(near, y, 0.0)
            xf, yf = tl.floor(x), tl.floor(y)
            x0, y0, fx, fy = xf.to(tl.int32), yf.to(tl.int32), x - xf, y - yf
            for corner in tl.static_range(4):
                right: tl.constexpr = corner % 2
                lower: tl.constexpr = corner // 2
                share = weight * (fx if right else 1 - fx) * (fy if lower else 1 - fy)
                at, mask = _corner(base, x0 + right, y0 + lower, width, height, start, near, heads * depth, d, depth)
                total += share[:, None] * tl.load(at, mask=mask, other=0.0).to(tl.float32)
        start += height * width
    to = out + (((b * queries + q).to(tl.int64) * heads + m) * depth)[:, None] + d[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=live[:, None] & (d < depth)[None, :])


@triton.jit
def _backward(
    value,
    sizes,
    places,
    weights,
    grad,
    to_value,
    to_places,
    to_weights,
    queries,
    cells,
    heads,
    depth,
    L: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    head = tl.program_id(1)
    b, m = head // heads, head % heads
    q = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D)
    live = q < queries
    entry = ((b * queries + q).to(tl.int64) * heads + m) * (L * P)
    shift = (b.to(tl.int64) * cells * heads + m) * depth
    here = (((b * queries + q).to(tl.int64) * heads + m) * depth)[:, None] + d[None, :]
    given = tl.load(grad + here, mask=live[:, None] & (d < depth)[None, :], other=0.0).to(tl.float32)
    start = 0
    for level in range(L):
        height, width = tl.load(sizes + 2 * level), tl.load(sizes + 2 * level + 1)
        for p in range(P):
            i = entry + level * P + p
            x = tl.load(places + 2 * i, mask=live, other=-9.0) * width - 0.5
            y = tl.load(places + 2 * i + 1, mask=live, other=-9.0) * height - 0.5
            weight = tl.load(weights + i, mask=live, other=0.0)
            near = live & (x > -1) & (y > -1) & (x < width) & (y < height)
            x, y = tl.where(near, x, 0.0), tl.where(near, y, 0.0)
            xf, yf = tl.floor(x), tl.floor(y)
            x0, y0, fx, fy = xf.to(tl.int32), yf.to(tl.int32), x - xf, y - yf
            by_weight = tl.zeros((BLOCK,), tl.float32)
            by_x = tl.zeros((BLOCK,), tl.float32)
            by_y = tl.zeros((BLOCK,), tl.float32)
            for corner in tl.static_range(4):
                right: tl.constexpr = corner % 2
                lower: tl.constexpr = corner // 2
                sx, sy = (fx if right else 1 - fx), (fy if lower else 1 - fy)
                at, mask = _corner(shift, x0 + right, y0 + lower, width, height, start, near, heads * depth, d, depth)
                dot = tl.sum(tl.load(value + at, mask=mask, other=0.0).to(tl.float32) * given, axis=1)
                by_weight += sx * sy * dot
                by_x += (1 if right else -1) * sy * dot
                by_y += (1 if lower else -1) * sx * dot
                tl.atomic_add(to_value + at, (weight * sx * sy)[:, None] * given, mask=mask)
            tl.store(to_weights + i, by_weight, mask=live)
            tl.store(to_places + 2 * i, weight * width * by_x, mask=live)
            tl.store(to_places + 2 * i + 1, weight * height * by_y, mask=live)
        start += height * width


class DeformAttnGPU(torch.autograd.Function):
    """See :func:`d2tiny.layers.deform_attn.ms_deform_attn`; value in float32, bfloat16 or float16, the rest float32."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, sizes: tuple[tuple[int, int], ...], places: Tensor, weights: Tensor) -> Tensor:
        """(B, Q, M·D) from value (B, S, M, D), places (B, Q, M, L, P, 2) and weights (B, Q, M, L, P)."""
        value, places, weights = value.contiguous(), places.contiguous(), weights.contiguous()
        ctx.save_for_backward(value, places, weights)
        ctx.sizes = torch.tensor(sizes, dtype=torch.int32, device=value.device)
        out = value.new_empty(*weights.shape[:3], value.shape[3])
        if out.numel():
            with _device_of(value):
                _forward[_grid(weights)](value, ctx.sizes, places, weights, out, **_shape(value, weights))
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of value, places and weights."""
        value, places, weights = ctx.saved_tensors
        to_value = torch.zeros_like(value, dtype=torch.float32)
        to_places, to_weights = torch.zeros_like(places), torch.zeros_like(weights)
        if grad.numel():
            outs = (to_value, to_places, to_weights)
            settings = _shape(value, weights)
            with _device_of(value):
                _backward[_grid(weights)](value, ctx.sizes, places, weights, grad.contiguous(), *outs, **settings)
        return to_value.to(value.dtype), None, to_places, to_weights


def _device_of(value: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(value.device) if value.is_cuda else nullcontext()


def _grid(weights: Tensor) -> tuple[int, int]:
    batch, queries, heads = weights.shape[:3]
    return triton.cdiv(queries, _BLOCK), batch * heads


def _shape(value: Tensor, weights: Tensor) -> dict[str, int]:
    _, queries, heads, levels, points = weights.shape
    depth = value.shape[3]
    sizes = {"queries": queries, "cells": value.shape[1], "heads": heads, "depth": depth}
    return sizes | {"L": levels, "P": points, "D": triton.next_power_of_2(depth), "BLOCK": _BLOCK}
