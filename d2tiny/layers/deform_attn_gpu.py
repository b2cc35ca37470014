# mypy: allow-untyped-defs
"""Multi-scale deformable attention as Triton kernels: samples stay in registers and are never written to memory.

One program computes a block of queries of one head. Gradients of the values are added atomically in float32, in an
order, and therefore with last bits, that may differ between calls.
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

_BLOCK = 16  # queries of one program


@triton.jit
def _corner(base, x, y, width, height, start, live, stride, d, depth):
    """Return addresses (BLOCK, D) of one cell for each query, and where they may be read: cells inside the map."""
    inside = live & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    row = base + (start + y * width + x).to(tl.int64) * stride
    mask = inside[:, None] & (d < depth)[None, :]
    return row[:, None] + d[None, :], mask


@triton.jit
def _query(queries, heads, BLOCK: tl.constexpr):
    """Return image, head, (query, head) row of each query of this program, and whether the query exists."""
    b, m = tl.program_id(1) // heads, tl.program_id(1) % heads
    q = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    return b, m, (b * queries + q).to(tl.int64) * heads + m, q < queries


@triton.jit
def _sample(locations, weights, i, live, width, height):
    """Load sample ``i`` of each query: weight, whether it touches the map, its upper left cell and the offset in it."""
    x = tl.load(locations + 2 * i, mask=live, other=-9.0) * width - 0.5
    y = tl.load(locations + 2 * i + 1, mask=live, other=-9.0) * height - 0.5
    weight = tl.load(weights + i, mask=live, other=0.0)
    near = live & (x > -1) & (y > -1) & (x < width) & (y < height)
    x, y = tl.where(near, x, 0.0), tl.where(near, y, 0.0)
    xf, yf = tl.floor(x), tl.floor(y)
    return weight, near, xf.to(tl.int32), yf.to(tl.int32), x - xf, y - yf


@triton.jit
def _forward(
    value,
    spatial_shapes,
    locations,
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
    b, m, row, live = _query(queries, heads, BLOCK)
    d = tl.arange(0, D)
    entry = row * (L * P)
    base = value + (b.to(tl.int64) * cells * heads + m) * depth
    total = tl.zeros((BLOCK, D), tl.float32)
    start = 0
    for level in range(L):
        height, width = tl.load(spatial_shapes + 2 * level), tl.load(spatial_shapes + 2 * level + 1)
        for p in range(P):
            i = entry + level * P + p
            weight, near, x0, y0, fx, fy = _sample(locations, weights, i, live, width, height)
            for corner in tl.static_range(4):
                right: tl.constexpr = corner % 2
                lower: tl.constexpr = corner // 2
                share = weight * (fx if right else 1 - fx) * (fy if lower else 1 - fy)
                at, mask = _corner(base, x0 + right, y0 + lower, width, height, start, near, heads * depth, d, depth)
                total += share[:, None] * tl.load(at, mask=mask, other=0.0).to(tl.float32)
        start += height * width
    to = out + (row * depth)[:, None] + d[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=live[:, None] & (d < depth)[None, :])


@triton.jit
def _backward(
    value,
    spatial_shapes,
    locations,
    weights,
    grad_out,
    grad_value,
    grad_locations,
    grad_weights,
    queries,
    cells,
    heads,
    depth,
    L: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b, m, row, live = _query(queries, heads, BLOCK)
    d = tl.arange(0, D)
    entry = row * (L * P)
    shift = (b.to(tl.int64) * cells * heads + m) * depth
    here = (row * depth)[:, None] + d[None, :]
    grad_block = tl.load(grad_out + here, mask=live[:, None] & (d < depth)[None, :], other=0.0).to(tl.float32)
    start = 0
    for level in range(L):
        height, width = tl.load(spatial_shapes + 2 * level), tl.load(spatial_shapes + 2 * level + 1)
        for p in range(P):
            i = entry + level * P + p
            weight, near, x0, y0, fx, fy = _sample(locations, weights, i, live, width, height)
            by_weight = tl.zeros((BLOCK,), tl.float32)
            by_x = tl.zeros((BLOCK,), tl.float32)
            by_y = tl.zeros((BLOCK,), tl.float32)
            for corner in tl.static_range(4):
                right: tl.constexpr = corner % 2
                lower: tl.constexpr = corner // 2
                sx, sy = (fx if right else 1 - fx), (fy if lower else 1 - fy)
                at, mask = _corner(shift, x0 + right, y0 + lower, width, height, start, near, heads * depth, d, depth)
                dot = tl.sum(tl.load(value + at, mask=mask, other=0.0).to(tl.float32) * grad_block, axis=1)
                by_weight += sx * sy * dot
                by_x += (1 if right else -1) * sy * dot
                by_y += (1 if lower else -1) * sx * dot
                tl.atomic_add(grad_value + at, (weight * sx * sy)[:, None] * grad_block, mask=mask)
            tl.store(grad_weights + i, by_weight, mask=live)
            tl.store(grad_locations + 2 * i, weight * width * by_x, mask=live)
            tl.store(grad_locations + 2 * i + 1, weight * height * by_y, mask=live)
        start += height * width


class DeformAttnGPU(torch.autograd.Function):
    """Autograd function of :func:`d2tiny.layers.deform_attn.ms_deform_attn`.

    The value is float32, bfloat16 or float16, sampling locations and attention weights are float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        spatial_shapes: tuple[tuple[int, int], ...],
        sampling_locations: Tensor,
        attention_weights: Tensor,
    ) -> Tensor:
        """Return (B, Q, M·D) for value (B, S, M, D), locations (B, Q, M, L, P, 2) and weights (B, Q, M, L, P)."""
        value, locations = value.contiguous(), sampling_locations.contiguous()
        weights = attention_weights.contiguous()
        ctx.save_for_backward(value, locations, weights)
        ctx.spatial_shapes = torch.tensor(spatial_shapes, dtype=torch.int32, device=value.device)
        out = value.new_empty(*weights.shape[:3], value.shape[3])
        if out.numel():
            with _device_of(value):
                _forward[_grid(weights)](value, ctx.spatial_shapes, locations, weights, out, **_shape(value, weights))
        return out.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of value, sampling locations and attention weights."""
        value, locations, weights = ctx.saved_tensors
        grad_value = torch.zeros_like(value, dtype=torch.float32)
        grad_locations, grad_weights = torch.zeros_like(locations), torch.zeros_like(weights)
        if grad.numel():
            outs = (grad_value, grad_locations, grad_weights)
            settings = _shape(value, weights)
            with _device_of(value):
                _backward[_grid(weights)](
                    value, ctx.spatial_shapes, locations, weights, grad.contiguous(), *outs, **settings
                )
        return grad_value.to(value.dtype), None, grad_locations, grad_weights


def _device_of(value: Tensor) -> AbstractContextManager[object]:
    """Select the device of the tensors: Triton launches kernels on the current device, which may be another."""
    return torch.cuda.device(value.device) if value.is_cuda else nullcontext()


def _grid(weights: Tensor) -> tuple[int, int]:
    batch, queries, heads = weights.shape[:3]
    return triton.cdiv(queries, _BLOCK), batch * heads


def _shape(value: Tensor, weights: Tensor) -> dict[str, int]:
    _, queries, heads, levels, points = weights.shape
    depth = value.shape[3]
    shape = {"queries": queries, "cells": value.shape[1], "heads": heads, "depth": depth}
    return shape | {"L": levels, "P": points, "D": triton.next_power_of_2(depth), "BLOCK": _BLOCK}
