# mypy: allow-untyped-defs
"""Multi-scale deformable attention as Triton kernels: samples, weights and locations stay in registers.

One program computes a block of queries of one head. Softmax and locations are worked out where they are used, from
what the linear layers give (``KIND`` 2 or 4, the width of the reference points), or weights and locations are given
(``KIND`` 0). Gradients of the values are added atomically in float32, in an order, and therefore with last bits, that
may differ between calls.

The gradient of a softmax needs ``Σ_j A_j g_j`` with ``g_j`` = sample j · gradient of the output. As the output is
``Σ_j A_j · sample j``, that sum is output · gradient, and one pass over the samples is enough (as in FlashAttention).
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
def _normalise(logits, entry, live, COUNT: tl.constexpr, N: tl.constexpr, KIND: tl.constexpr):
    """Return what turns a logit into its weight, ``exp(logit − top) · factor``, for each query."""
    top, factor = tl.zeros_like(entry).to(tl.float32), tl.zeros_like(entry).to(tl.float32)
    if KIND > 0:
        i = tl.arange(0, N)
        mask = live[:, None] & (i < COUNT)[None, :]
        block = tl.load(logits + entry[:, None] + i[None, :], mask=mask, other=float("-inf")).to(tl.float32)
        top = tl.where(live, tl.max(block, axis=1), 0.0)
        factor = 1 / tl.sum(tl.where(mask, tl.exp(block - top[:, None]), 0.0), axis=1)
    return top, factor


@triton.jit
def _around(references, entry, live, width, height, P: tl.constexpr, KIND: tl.constexpr):
    """Return base and step of the locations on one level: a sample lies at column ``base_x + step_x · offset_x``."""
    base_x, base_y = tl.zeros_like(entry).to(tl.float32) - 0.5, tl.zeros_like(entry).to(tl.float32) - 0.5
    step_x, step_y = tl.zeros_like(base_x) + width, tl.zeros_like(base_y) + height
    if KIND > 0:
        base_x += tl.load(references + entry, mask=live, other=0.0) * width
        base_y += tl.load(references + entry + 1, mask=live, other=0.0) * height
        step_x, step_y = tl.zeros_like(base_x) + 1, tl.zeros_like(base_y) + 1
    if KIND > 2:
        step_x = tl.load(references + entry + 2, mask=live, other=0.0) * width * (0.5 / P)
        step_y = tl.load(references + entry + 3, mask=live, other=0.0) * height * (0.5 / P)
    return base_x, base_y, step_x, step_y


@triton.jit
def _sample(offsets, logits, i, live, top, factor, base_x, base_y, step_x, step_y, width, height, KIND: tl.constexpr):
    """Load sample ``i`` of each query: weight, whether it touches the map, its upper left cell and the offset in it."""
    x = base_x + step_x * tl.load(offsets + 2 * i, mask=live, other=0.0).to(tl.float32)
    y = base_y + step_y * tl.load(offsets + 2 * i + 1, mask=live, other=0.0).to(tl.float32)
    weight = tl.load(logits + i, mask=live, other=0.0).to(tl.float32)
    if KIND > 0:
        weight = tl.exp(weight - top) * factor
    near = live & (x > -1) & (y > -1) & (x < width) & (y < height)  # false for NaN
    x, y = tl.where(near, x, 0.0), tl.where(near, y, 0.0)
    xf, yf = tl.floor(x), tl.floor(y)
    return weight, near, xf.to(tl.int32), yf.to(tl.int32), x - xf, y - yf


@triton.jit
def _forward(
    value,
    spatial_shapes,
    offsets,
    logits,
    references,
    out,
    queries,
    cells,
    heads,
    depth,
    L: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    N: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b, m, row, live = _query(queries, heads, BLOCK)
    d, stride = tl.arange(0, D), heads * depth
    entry = row * (L * P)
    base = value + (b.to(tl.int64) * cells * heads + m) * depth
    top, factor = _normalise(logits, entry, live, L * P, N, KIND)
    total = tl.zeros((BLOCK, D), tl.float32)
    start = 0
    for level in range(L):
        height, width = tl.load(spatial_shapes + 2 * level), tl.load(spatial_shapes + 2 * level + 1)
        at_level = (row // heads * L + level) * KIND
        base_x, base_y, step_x, step_y = _around(references, at_level, live, width, height, P, KIND)
        for p in range(P):
            i = entry + level * P + p
            weight, near, x0, y0, fx, fy = _sample(
                offsets, logits, i, live, top, factor, base_x, base_y, step_x, step_y, width, height, KIND
            )
            for corner in tl.static_range(4):
                share = weight * (fx if corner % 2 else 1 - fx) * (fy if corner // 2 else 1 - fy)
                at, mask = _corner(
                    base, x0 + corner % 2, y0 + corner // 2, width, height, start, near, stride, d, depth
                )
                total += share[:, None] * tl.load(at, mask=mask, other=0.0).to(tl.float32)
        start += height * width
    to = out + (row * depth)[:, None] + d[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=live[:, None] & (d < depth)[None, :])


@triton.jit
def _backward(
    value,
    spatial_shapes,
    offsets,
    logits,
    references,
    out,
    grad_out,
    grad_value,
    grad_offsets,
    grad_logits,
    queries,
    cells,
    heads,
    depth,
    L: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    N: tl.constexpr,
    KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    b, m, row, live = _query(queries, heads, BLOCK)
    d, stride = tl.arange(0, D), heads * depth
    entry = row * (L * P)
    shift = (b.to(tl.int64) * cells * heads + m) * depth
    here = (row * depth)[:, None] + d[None, :]
    whole = live[:, None] & (d < depth)[None, :]
    grad_block = tl.load(grad_out + here, mask=whole, other=0.0).to(tl.float32)
    top, factor = _normalise(logits, entry, live, L * P, N, KIND)
    mean = tl.zeros((BLOCK,), tl.float32)
    if KIND > 0:
        mean = tl.sum(tl.load(out + here, mask=whole, other=0.0).to(tl.float32) * grad_block, axis=1)
    start = 0
    for level in range(L):
        height, width = tl.load(spatial_shapes + 2 * level), tl.load(spatial_shapes + 2 * level + 1)
        at_level = (row // heads * L + level) * KIND
        base_x, base_y, step_x, step_y = _around(references, at_level, live, width, height, P, KIND)
        for p in range(P):
            i = entry + level * P + p
            weight, near, x0, y0, fx, fy = _sample(
                offsets, logits, i, live, top, factor, base_x, base_y, step_x, step_y, width, height, KIND
            )
            by_weight = tl.zeros((BLOCK,), tl.float32)
            by_x = tl.zeros((BLOCK,), tl.float32)
            by_y = tl.zeros((BLOCK,), tl.float32)
            for corner in tl.static_range(4):
                sx, sy = (fx if corner % 2 else 1 - fx), (fy if corner // 2 else 1 - fy)
                at, mask = _corner(
                    shift, x0 + corner % 2, y0 + corner // 2, width, height, start, near, stride, d, depth
                )
                dot = tl.sum(tl.load(value + at, mask=mask, other=0.0).to(tl.float32) * grad_block, axis=1)
                by_weight += sx * sy * dot
                by_x += (1 if corner % 2 else -1) * sy * dot
                by_y += (1 if corner // 2 else -1) * sx * dot
                tl.atomic_add(grad_value + at, (weight * sx * sy)[:, None] * grad_block, mask=mask, sem="relaxed")
            if KIND > 0:
                by_weight = weight * (by_weight - mean)
            tl.store(grad_logits + i, by_weight.to(grad_logits.dtype.element_ty), mask=live)
            to = grad_offsets + 2 * i
            tl.store(to, (weight * step_x * by_x).to(grad_offsets.dtype.element_ty), mask=live)
            tl.store(to + 1, (weight * step_y * by_y).to(grad_offsets.dtype.element_ty), mask=live)
        start += height * width


class DeformAttnGPU(torch.autograd.Function):
    """Autograd function of :func:`d2tiny.layers.deform_attn.ms_deform_attn` and ``fused_deform_attn``.

    Values are float32, bfloat16 or float16, offsets and logits too; all is computed in float32, and results are rounded
    to the types of what they belong to.
    """

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        spatial_shapes: tuple[tuple[int, int], ...],
        offsets: Tensor,
        logits: Tensor,
        references: Tensor | None,
    ) -> Tensor:
        """Return (B, Q, M, D) for value (B, S, M, D), offsets (B, Q, M, 2·L·P) and logits (B, Q, M, L·P).

        ``references`` are (B, Q, L, 2 or 4) in float32, without gradient; without them, offsets are locations and
        logits are weights.
        """
        value, offsets, logits = value.contiguous(), offsets.contiguous(), logits.contiguous()
        references = None if references is None else references.contiguous()
        ctx.spatial_shapes = torch.tensor(spatial_shapes, dtype=torch.int32, device=value.device)
        learns = references is not None and any(ctx.needs_input_grad)
        # The gradient of the softmax needs the output as it was before it is rounded.
        out = value.new_empty((*logits.shape[:3], value.shape[3]), dtype=torch.float32 if learns else value.dtype)
        if out.numel():
            given = (value, ctx.spatial_shapes, offsets, logits, _pointer(references, logits))
            with _device_of(value):
                _forward[_grid(logits)](*given, out, **_shape(value, logits, references, len(spatial_shapes)))
        ctx.save_for_backward(value, offsets, logits, references, out if learns else None)
        return out.to(value.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of value, offsets and logits."""
        value, offsets, logits, references, out = ctx.saved_tensors
        grad_value = torch.zeros_like(value, dtype=torch.float32)
        grad_offsets, grad_logits = torch.zeros_like(offsets), torch.zeros_like(logits)
        if grad.numel():
            given = (value, ctx.spatial_shapes, offsets, logits, _pointer(references, logits), _pointer(out, value))
            outs = (grad.contiguous(), grad_value, grad_offsets, grad_logits)
            with _device_of(value):
                settings = _shape(value, logits, references, len(ctx.spatial_shapes))
                _backward[_grid(logits)](*given, *outs, **settings)
        return grad_value.to(value.dtype), None, grad_offsets, grad_logits, None


def _device_of(value: Tensor) -> AbstractContextManager[object]:
    """Select the device of the tensors: Triton launches kernels on the current device, which may be another."""
    return torch.cuda.device(value.device) if value.is_cuda else nullcontext()


def _pointer(tensor: Tensor | None, other: Tensor) -> Tensor:
    """Return a tensor for an argument that the kernel does not read if it is none."""
    return other if tensor is None else tensor


def _grid(logits: Tensor) -> tuple[int, int]:
    batch, queries, heads = logits.shape[:3]
    return triton.cdiv(queries, _BLOCK), batch * heads


def _shape(value: Tensor, logits: Tensor, references: Tensor | None, levels: int) -> dict[str, int]:
    _, queries, heads, samples = logits.shape
    depth, kind = value.shape[3], 0 if references is None else references.shape[3]
    shape = {"queries": queries, "cells": value.shape[1], "heads": heads, "depth": depth}
    blocks = {"D": triton.next_power_of_2(depth), "N": triton.next_power_of_2(samples), "BLOCK": _BLOCK}
    return shape | blocks | {"L": levels, "P": samples // levels, "KIND": kind}
