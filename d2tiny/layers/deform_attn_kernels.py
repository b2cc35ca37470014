"""Numba kernels of multi-scale deformable attention, forward and backward.

Where a query samples and with which weights is worked out for the L·P samples of a head at once, in loops over small
arrays that the compiler vectorises. Nothing of it is written to memory that outlives the query.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from d2tiny.layers.deform_attn_taps import DOT, FAST, SHARE, add_to_taps, dot_taps, sum_taps
from d2tiny.utils.compiled import njit

__all__ = ["MOST_SAMPLES", "deform_attn_kernels"]

_FAST = set(FAST)
# Parts of ``work`` and ``cells``, each as long as ``_ROOM`` ≥ L·P, so that the compiler knows that they do not overlap.
_BASE_X, _BASE_Y, _SCALE_X, _SCALE_Y, _WIDE, _HIGH, _WEIGHT, _FX, _FY, _PARTS = *range(9), 17
_CELL, _WIDTH, _START, _CELL_PARTS = 0, 4, 5, 6
MOST_SAMPLES = 272
_ROOM = MOST_SAMPLES


@njit(cache=True, nogil=True, fastmath=_FAST)
def _prepare_levels(work, cells, levels, points):  # type: ignore[no-untyped-def]
    """Write height, width and first cell of each sample's level."""
    for level in range(levels.shape[0]):
        for i in range(level * points, (level + 1) * points):
            work[_HIGH * _ROOM + i], work[_WIDE * _ROOM + i] = levels[level, 0], levels[level, 1]
            cells[_WIDTH * _ROOM + i], cells[_START * _ROOM + i] = levels[level, 1], levels[level, 2]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _prepare_query(work, references, levels, q, begin, points):  # type: ignore[no-untyped-def]
    """Write base and scale of each sample: it lies at the column ``base_x + scale_x · Δx`` of its level."""
    real = work.dtype.type
    for level in range(levels.shape[0]):
        wide, high = real(levels[level, 1]), real(levels[level, 0])
        x, y, scale_x, scale_y = -real(0.5), -real(0.5), wide, high
        if references.shape[2] > 0:
            x, y = x + references[q, level, 0] * wide, y + references[q, level, 1] * high
            scale_x, scale_y = real(1), real(1)
        if references.shape[2] > 2:
            scale_x = references[q, level, 2] * wide * real(0.5) / real(points)
            scale_y = references[q, level, 3] * high * real(0.5) / real(points)
        for i in range(level * points, (level + 1) * points):
            work[_BASE_X * _ROOM + i], work[_BASE_Y * _ROOM + i] = x, y
        if q == begin or references.shape[2] > 2:
            for i in range(level * points, (level + 1) * points):
                work[_SCALE_X * _ROOM + i], work[_SCALE_Y * _ROOM + i] = scale_x, scale_y


@njit(cache=True, nogil=True, fastmath=_FAST | {"nnan"})
def _largest(logits, count):  # type: ignore[no-untyped-def]
    """Return the largest logit, or any if one is NaN."""
    top = logits[0]
    for i in range(1, count):
        top = max(top, logits[i])
    return top


@njit(cache=True, nogil=True, fastmath=_FAST)
def _softmax(work, logits, count, single):  # type: ignore[no-untyped-def]
    """Turn logits into weights whose sum is 1; NaN, +∞ and nothing but −∞ give NaN, as in PyTorch."""
    real = work.dtype.type
    top = _largest(logits, count)
    for i in range(count):
        if single:  # eˣ = 2ᵏ · eʳ with |r| ≤ ln √2, a series up to r⁷: exact to the last bit or two, and vectorised
            t = (logits[i] - top) * np.float32(1.4426950408889634)
            safe = t if t >= np.float32(-126) else np.float32(-126)
            k = np.int32(safe - np.float32(0.5))
            r = (safe - np.float32(k)) * np.float32(0.6931471805599453)
            e = r * np.float32(1 / 5040) + np.float32(1 / 720)
            e = (e * r + np.float32(1 / 120)) * r + np.float32(1 / 24)
            e = ((e * r + np.float32(1 / 6)) * r + np.float32(0.5)) * r
            e = (e + np.float32(1)) * r + np.float32(1)
            power = np.int32(np.int32(k + 127) << 23)
            e = e * np.int32(power).view(np.float32)
            work[_WEIGHT * _ROOM + i] = e if t >= np.float32(-126) else (t if t != t else np.float32(0))
        else:
            work[_WEIGHT * _ROOM + i] = np.exp(logits[i] - top)
    total = real(0)
    for i in range(count):
        total += work[_WEIGHT * _ROOM + i]
    total = real(1) / total
    for i in range(count):
        work[_WEIGHT * _ROOM + i] *= total


@njit(cache=True, nogil=True, fastmath=_FAST)
def _place(work, cells, offsets, count):  # type: ignore[no-untyped-def]
    """Write the cells of the taps, −1 outside the map, the distances to the upper left one, and the shares."""
    real = work.dtype.type
    one, out = real(1), real(-5)
    for i in range(count):
        wide, high = work[_WIDE * _ROOM + i], work[_HIGH * _ROOM + i]
        x = work[_BASE_X * _ROOM + i] + offsets[2 * i] * work[_SCALE_X * _ROOM + i]
        y = work[_BASE_Y * _ROOM + i] + offsets[2 * i + 1] * work[_SCALE_Y * _ROOM + i]
        near = (x > -one) & (x < wide) & (y > -one) & (y < high)  # false for NaN
        x, y = x if near else out, y if near else out
        # Of the lower right tap; the conversion cuts towards 0. The last number before the edge plus 1 may round to the
        # edge plus 1: without the limit its left tap would lie in the next row, or behind the last one.
        column, row = min(np.int32(x + one), np.int32(wide)), min(np.int32(y + one), np.int32(high))
        fx, fy = x + one - real(column), y + one - real(row)
        x, y = real(column), real(row)
        left, right, upper, lower = x > real(0), (x < wide) & near, y > real(0), y < high
        corner = cells[_START * _ROOM + i] + row * cells[_WIDTH * _ROOM + i] + column
        above = corner - cells[_WIDTH * _ROOM + i]
        cells[i] = np.int32(above - 1) if left & upper else np.int32(-1)
        cells[_ROOM + i] = np.int32(above) if right & upper else np.int32(-1)
        cells[2 * _ROOM + i] = np.int32(corner - 1) if left & lower else np.int32(-1)
        cells[3 * _ROOM + i] = np.int32(corner) if right & lower else np.int32(-1)
        weight = work[_WEIGHT * _ROOM + i]
        work[_FX * _ROOM + i], work[_FY * _ROOM + i] = fx, fy
        work[SHARE * _ROOM + i] = weight * (one - fx) * (one - fy)
        work[(SHARE + 1) * _ROOM + i] = weight * fx * (one - fy)
        work[(SHARE + 2) * _ROOM + i] = weight * (one - fx) * fy
        work[(SHARE + 3) * _ROOM + i] = weight * fx * fy


@njit(cache=True, nogil=True, fastmath=_FAST)
def _hide(cells, padding, count):  # type: ignore[no-untyped-def]
    """Let taps in the padding be none."""
    for k in range(4):
        for i in range(k * _ROOM, k * _ROOM + count):
            if cells[i] >= 0 and padding[cells[i]]:
                cells[i] = -1


@njit(cache=True, nogil=True, fastmath=_FAST)
def _mass(work, cells, count):  # type: ignore[no-untyped-def]
    """Return the sum of the shares of taps that exist."""
    total = work.dtype.type(0)
    for k in range(4):
        for i in range(count):
            if cells[k * _ROOM + i] >= 0:
                total += work[(SHARE + k) * _ROOM + i]
    return total


@functools.lru_cache(maxsize=16)
def deform_attn_kernels(depth: int, count: int, single: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """Compile forward and backward.

    Args:
        depth: channels of a row of values.
        count: samples of a head, L·P ≤ ``MOST_SAMPLES``; a constant, so that loops over them are vectorised.
        single: float32, not float64.

    Returns:
        Both take the rows of values (flat array, first entry, stride of rows), ``levels`` (L, 3) int32 height, width
        and first cell, ``offsets`` (Q, M, 2·L·P), ``logits`` (Q, M, L·P) or weights if not ``normalise``, references
        (Q, L, 0, 2 or 4; offsets are locations if there are none), ``padding`` (S,) or empty, the queries and heads to
        compute, and ``skip``, the number of heads that offsets and logits lack at the start.
    """
    real = np.float32 if single else np.float64

    @njit(cache=True, nogil=True, fastmath=_FAST)
    def gather(  # type: ignore[no-untyped-def]
        values, first, stride, levels, offsets, logits, references, padding, normalise, out, mass, queries, heads, skip
    ):
        work, cells = np.zeros(_PARTS * _ROOM, real), np.zeros(_CELL_PARTS * _ROOM, np.int32)
        row, spare = np.empty(depth, real), np.zeros(depth, real)
        points = count // levels.shape[0]
        _prepare_levels(work, cells, levels, points)
        for q in range(queries[0], queries[1]):
            _prepare_query(work, references, levels, q, queries[0], points)
            for m in range(heads[0], heads[1]):
                if normalise:
                    _softmax(work, logits[q, m - skip], count, single)
                else:
                    work[_WEIGHT * _ROOM : _WEIGHT * _ROOM + count] = logits[q, m - skip]
                _place(work, cells, offsets[q, m - skip], count)
                if padding.shape[0] > 0:
                    _hide(cells, padding, count)
                sum_taps(values, first, stride, cells, work, _ROOM, count, row, spare, depth)
                out[q, m] = row
                if mass.shape[0] > 0:
                    mass[q, m] = _mass(work, cells, count)

    @njit(cache=True, nogil=True, fastmath=_FAST)
    def scatter(  # type: ignore[no-untyped-def]
        values, first, stride, levels, offsets, logits, references, padding, normalise, out, mass, queries, heads, skip,
        grad_values, grad_first, grad_stride, grad_offsets, grad_logits,
    ):  # fmt: skip
        one = real(1)
        work, cells = np.zeros(_PARTS * _ROOM, real), np.zeros(_CELL_PARTS * _ROOM, np.int32)
        row, spare, refuse = np.empty(depth, real), np.zeros(depth, real), np.zeros(depth, real)
        points = count // levels.shape[0]
        _prepare_levels(work, cells, levels, points)
        for q in range(queries[0], queries[1]):
            _prepare_query(work, references, levels, q, queries[0], points)
            for m in range(heads[0], heads[1]):
                if normalise:
                    _softmax(work, logits[q, m - skip], count, single)
                else:
                    work[_WEIGHT * _ROOM : _WEIGHT * _ROOM + count] = logits[q, m - skip]
                _place(work, cells, offsets[q, m - skip], count)
                if padding.shape[0] > 0:
                    _hide(cells, padding, count)
                row[:] = out[q, m]
                dot_taps(values, first, stride, cells, work, _ROOM, count, row, spare, depth)
                add_to_taps(grad_values, grad_first, grad_stride, cells, work, _ROOM, count, row, refuse, depth)
                if mass.shape[0] > 0:
                    for k in range(4):
                        for i in range(count):
                            if cells[k * _ROOM + i] >= 0:
                                work[(DOT + k) * _ROOM + i] += mass[q, m]
                to_offsets, to_logits, mean = grad_offsets[q, m], grad_logits[q, m], real(0)
                for i in range(count):
                    fx, fy, weight = work[_FX * _ROOM + i], work[_FY * _ROOM + i], work[_WEIGHT * _ROOM + i]
                    d0, d1 = work[DOT * _ROOM + i], work[(DOT + 1) * _ROOM + i]
                    d2, d3 = work[(DOT + 2) * _ROOM + i], work[(DOT + 3) * _ROOM + i]
                    top, bottom = (one - fx) * d0 + fx * d1, (one - fx) * d2 + fx * d3
                    by_x = (one - fy) * (d1 - d0) + fy * (d3 - d2)
                    to_offsets[2 * i] = weight * by_x * work[_SCALE_X * _ROOM + i]
                    to_offsets[2 * i + 1] = weight * (bottom - top) * work[_SCALE_Y * _ROOM + i]
                    to_logits[i] = (one - fy) * top + fy * bottom
                if normalise:
                    for i in range(count):
                        mean += work[_WEIGHT * _ROOM + i] * to_logits[i]
                    for i in range(count):
                        to_logits[i] = work[_WEIGHT * _ROOM + i] * (to_logits[i] - mean)

    return gather, scatter
