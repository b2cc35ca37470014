"""RoIAlign for processors: separable, and along the channels, so that it runs as fast as memory allows.

torchvision's loop reads four corners of every sample one number at a time. A bin's mean of bilinear samples is a
product of weights of rows and weights of columns, so here the rows of a box are first reduced to the bins' columns,
then added up; every inner loop is over channels that lie side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["roi_align"]

_FARTHEST = 1e7  # px; beyond, single precision has no pixels and a box would have endless samples


def roi_align(
    maps: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    size: tuple[int, int],
    scales: Sequence[float],
    sampling_ratio: int = 0,
) -> Tensor:
    """Mean of bilinear samples in each bin of each box (``aligned=True`` of torchvision), each box from one level.

    On processors; the gradient goes to the maps only, as torchvision's does. Boxes with NaN, or
    farther out than 10⁷ px, give NaN.

    Args:
        maps: L levels (B, C, H, W) float32.
        rois: (R, 5) index of the image and XYXY in px of the image.
        levels: (R,) index of the level of each box.
        size: h, w of the result in bins.
        scales: L times 1 / stride.
        sampling_ratio: samples of a bin in each direction; 0: one for each pixel of the level that it spans.

    Returns:
        (R, C, h, w) float32.

    Raises:
        ValueError: wrong shapes, another type, another device, or an index of no image or level.
    """
    if any(x.dim() != 4 or x.dtype != torch.float32 or x.device.type != "cpu" for x in maps) or rois.shape[1:] != (5,):
        given = ", ".join(f"{tuple(x.shape)} {x.dtype} {x.device}" for x in maps)
        raise ValueError(
            f"roi_align: needs float32 maps (B, C, H, W) and boxes (R, 5) of a processor, got {given} and boxes "
            f"{tuple(rois.shape)}."
        )
    if any(0 in x.shape[2:] for x in maps):
        raise ValueError(f"roi_align: maps without pixels: {[tuple(x.shape) for x in maps]}.")
    if len({x.shape[:2] for x in maps}) != 1 or len(maps) != len(scales) or levels.shape != rois.shape[:1]:
        raise ValueError(
            f"roi_align: {len(maps)} levels with {sorted({tuple(x.shape[:2]) for x in maps})} images and channels, "
            f"{len(scales)} scales, {len(rois)} boxes, {len(levels)} levels of boxes; they must fit."
        )
    for name, index, count in (("images", rois[:, 0], len(maps[0])), ("levels", levels, len(maps))):
        if len(rois) and not bool(((index >= 0) & (index < count)).all()):
            raise ValueError(f"roi_align: boxes refer to {name} {index.unique().tolist()} of {count}.")
    out: Tensor = _RoIAlign.apply(rois, levels, size, tuple(scales), sampling_ratio, *maps)
    return out


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rois: Tensor, levels: Tensor, size: tuple[int, int], scales: Any, sampling: int, *maps: Tensor
    ) -> Tensor:
        # float32 as in torchvision: how many samples a bin gets must come out the same.
        boxes = rois.detach().float().clone().numpy()  # the caller may change its own before the backward pass
        ctx.places = [np.flatnonzero(levels.numpy() == level) for level in range(len(maps))]
        ctx.boxes, ctx.shapes, ctx.settings = boxes, [x.shape for x in maps], (scales, sampling)
        out = maps[0].new_empty((len(boxes), maps[0].shape[1], *size))
        for x, places, scale in zip(maps, ctx.places, scales, strict=True):
            if len(places):
                values = x.detach().permute(0, 2, 3, 1).contiguous().numpy()
                _over_channels(_gather, values, boxes, places, out.numpy(), np.float32(scale), sampling)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scales, sampling = ctx.settings
        given = grad.detach().contiguous().numpy()
        grads = []
        for shape, places, scale in zip(ctx.shapes, ctx.places, scales, strict=True):
            out = grad.new_zeros((shape[0], shape[2], shape[3], shape[1]))
            if len(places):
                _over_channels(_scatter, out.numpy(), ctx.boxes, places, given, np.float32(scale), sampling)
            grads.append(out.permute(0, 3, 1, 2))
        return (None,) * 5 + tuple(grads)


def _over_channels(kernel: Any, maps: np.ndarray, *given: Any) -> None:
    """Each of PyTorch's threads does some channels of all boxes: nothing is shared, whatever their number."""
    channels, workers = maps.shape[3], torch.get_num_threads()
    step = max(math.ceil(channels / workers), 16)
    parts = [(start, min(start + step, channels)) for start in range(0, channels, step)]
    if len(parts) == 1:
        kernel(maps, *given, *parts[0])
    elif parts:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(lambda part: kernel(maps, *given, *part), parts))


@njit(cache=True, nogil=True)
def _axis(low, high, length, sampling, weights, spans):  # type: ignore[no-untyped-def]
    """Fill one axis: weights (bins, length), valid in spans (bins, 2) of first and end. Returns the spans' range."""
    bins = len(weights)
    width = (high - low) / np.float32(bins)
    count = sampling if sampling > 0 else math.ceil(width)
    lowest, highest = length, 0
    part = np.float32(1) / np.float32(max(count, 1))
    for place in range(bins):
        first, last = length, 0
        for sample in range(count):
            at = low + np.float32(place) * width + (np.float32(sample) + np.float32(0.5)) * width / np.float32(count)
            if at < -1 or at > length:
                continue
            at = max(at, np.float32(0))
            pixel = int(at)
            share = at - np.float32(pixel)
            if pixel >= length - 1:
                pixel, share = length - 1, np.float32(0)
            # Pixels are set to zero as the span grows over them.
            if first > last:
                first, last = pixel, pixel
            while first > pixel:
                first -= 1
                weights[place, first] = 0
            end = pixel + 2 if share > 0 else pixel + 1
            while last < end:
                weights[place, last] = 0
                last += 1
            weights[place, pixel] += (1 - share) * part
            if share > 0:
                weights[place, pixel + 1] += share * part
        spans[place, 0], spans[place, 1] = first, last
        if first < last:
            lowest, highest = min(lowest, first), max(highest, last)
    return lowest, highest


@njit(cache=True, nogil=True)
def _scratch(height, width, rows, columns, channels):  # type: ignore[no-untyped-def]
    """Memory of one call: weights of rows and columns, their spans, all bins and one row of bins by channel."""
    by_row, by_column = np.empty((rows, height), np.float32), np.empty((columns, width), np.float32)
    row_spans, column_spans = np.empty((rows, 2), np.int64), np.empty((columns, 2), np.int64)
    bins, line = np.empty((rows, columns, channels), np.float32), np.empty((columns, channels), np.float32)
    return by_row, by_column, row_spans, column_spans, bins, line


@njit(cache=True, nogil=True)
def _gather(maps, boxes, places, out, scale, sampling, start, stop):  # type: ignore[no-untyped-def]
    """Fill out (R, C, h, w) at places, in the channels from start to stop, from maps (B, H, W, C)."""
    height, width = maps.shape[1], maps.shape[2]
    rows, columns = out.shape[2], out.shape[3]
    channels = stop - start
    by_row, by_column, row_spans, column_spans, total, reduced = _scratch(height, width, rows, columns, channels)
    half = np.float32(0.5)
    for r in places:
        if not (np.abs(boxes[r]) <= _FARTHEST).all():
            out[r, start:stop] = np.nan
            continue
        low, high = _axis(boxes[r, 2] * scale - half, boxes[r, 4] * scale - half, height, sampling, by_row, row_spans)
        _axis(boxes[r, 1] * scale - half, boxes[r, 3] * scale - half, width, sampling, by_column, column_spans)
        image = maps[int(boxes[r, 0])]
        total[:] = 0
        for y in range(low, high):
            reduced[:] = 0
            for j in range(columns):
                end = column_spans[j, 1]
                x = column_spans[j, 0]
                while x + 1 < end:  # two pixels at once: half the passes over the sums
                    left, right = by_column[j, x], by_column[j, x + 1]
                    here, there = image[y, x, start:stop], image[y, x + 1, start:stop]
                    for c in range(channels):
                        reduced[j, c] += left * here[c] + right * there[c]
                    x += 2
                if x < end:
                    left, here = by_column[j, x], image[y, x, start:stop]
                    for c in range(channels):
                        reduced[j, c] += left * here[c]
            for i in range(rows):
                if row_spans[i, 0] <= y < row_spans[i, 1]:
                    weight = by_row[i, y]
                    for j in range(columns):
                        for c in range(channels):
                            total[i, j, c] += weight * reduced[j, c]
        target = out[r, start:stop]
        for c in range(channels):
            for i in range(rows):
                for j in range(columns):
                    target[c, i, j] = total[i, j, c]


@njit(cache=True, nogil=True)
def _scatter(maps, boxes, places, grad, scale, sampling, start, stop):  # type: ignore[no-untyped-def]
    """Add to maps (B, H, W, C) what grad (R, C, h, w) is to the channels from start to stop: _gather transposed."""
    height, width = maps.shape[1], maps.shape[2]
    rows, columns = grad.shape[2], grad.shape[3]
    channels = stop - start
    by_row, by_column, row_spans, column_spans, given, spread = _scratch(height, width, rows, columns, channels)
    half = np.float32(0.5)
    for r in places:
        if not (np.abs(boxes[r]) <= _FARTHEST).all():
            continue
        low, high = _axis(boxes[r, 2] * scale - half, boxes[r, 4] * scale - half, height, sampling, by_row, row_spans)
        _axis(boxes[r, 1] * scale - half, boxes[r, 3] * scale - half, width, sampling, by_column, column_spans)
        image = maps[int(boxes[r, 0])]
        source = grad[r, start:stop]
        for c in range(channels):
            for i in range(rows):
                for j in range(columns):
                    given[i, j, c] = source[c, i, j]
        for y in range(low, high):
            spread[:] = 0
            for i in range(rows):
                if row_spans[i, 0] <= y < row_spans[i, 1]:
                    weight = by_row[i, y]
                    for j in range(columns):
                        for c in range(channels):
                            spread[j, c] += weight * given[i, j, c]
            for j in range(columns):
                for x in range(column_spans[j, 0], column_spans[j, 1]):
                    weight, line = by_column[j, x], image[y, x, start:stop]
                    for c in range(channels):
                        line[c] += weight * spread[j, c]
