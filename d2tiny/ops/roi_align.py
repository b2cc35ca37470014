"""RoIAlign for processors: separable, and along the channels, so that it runs as fast as memory allows.

torchvision's loop reads four corners of every sample one number at a time. A bin's mean of bilinear samples is a
product of weights of rows and weights of columns, so here the rows of a box are first reduced to the bins' columns,
then added up; every inner loop is over channels that lie side by side.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["roi_align"]


def roi_align(x: Tensor, rois: Tensor, size: tuple[int, int], scale: float, sampling_ratio: int = 0) -> Tensor:
    """Mean of bilinear samples in each bin of each box (``aligned=True`` of torchvision).

    On processors; the gradient goes to ``x`` only, as torchvision's does. Boxes with NaN or infinity give NaN.

    Args:
        x: (B, C, H, W) float32.
        rois: (R, 5) index of the image and XYXY in px of the image.
        size: h, w of the result in bins.
        scale: 1 / stride of x.
        sampling_ratio: samples of a bin in each direction; 0: one for each pixel of x that it spans.

    Returns:
        (R, C, h, w) float32.

    Raises:
        ValueError: wrong shapes, another type, another device, or an index of no image.
    """
    if x.dim() != 4 or x.dtype != torch.float32 or x.device.type != "cpu" or rois.shape[1:] != (5,):
        raise ValueError(
            f"roi_align: needs float32 features (B, C, H, W) and boxes (R, 5) of a processor, got {tuple(x.shape)} "
            f"({x.dtype}, {x.device}) and {tuple(rois.shape)}."
        )
    index = rois[:, 0]
    if len(rois) and not bool(((index >= 0) & (index < len(x))).all()):
        raise ValueError(f"roi_align: boxes refer to images {index.unique().tolist()} of {len(x)}.")
    return _RoIAlign.apply(x, rois, size, scale, sampling_ratio)


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rois: Tensor, size: tuple[int, int], scale: float, sampling: int) -> Tensor:
        # float32 as in torchvision: how many samples a bin gets must come out the same.
        boxes = np.ascontiguousarray(rois.detach().float().numpy())
        ctx.given = boxes, x.shape, size, scale, sampling
        out = x.new_empty((len(boxes), x.shape[1], *size))
        maps = x.detach().permute(0, 2, 3, 1).contiguous().numpy()
        _over_channels(_gather, maps, boxes, out.numpy(), np.float32(scale), sampling)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        boxes, shape, _, scale, sampling = ctx.given
        out = grad.new_zeros((shape[0], shape[2], shape[3], shape[1]))
        _over_channels(_scatter, out.numpy(), boxes, grad.detach().contiguous().numpy(), np.float32(scale), sampling)
        return out.permute(0, 3, 1, 2), None, None, None, None


def _over_channels(kernel: Any, maps: np.ndarray, boxes: np.ndarray, bins: np.ndarray, *settings: Any) -> None:
    """Each of PyTorch's threads does some channels of all boxes: nothing is shared, whatever their number."""
    channels, workers = maps.shape[3], torch.get_num_threads()
    step = max(math.ceil(channels / workers), 16)
    parts = [(start, min(start + step, channels)) for start in range(0, channels, step)]
    if len(parts) == 1:
        kernel(maps, boxes, bins, *settings, *parts[0])
    elif parts:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(lambda part: kernel(maps, boxes, bins, *settings, *part), parts))


@njit(cache=True, nogil=True)
def _axis(low, high, length, bins, sampling, weights):  # type: ignore[no-untyped-def]
    """Fill weights (bins, length) of one axis; returns the first and the one after the last pixel with a weight."""
    extent = high - low
    width = extent / np.float32(bins)
    count = sampling if sampling > 0 else math.ceil(width)
    first, last = length, 0
    for place in range(bins):
        weights[place, :] = 0
    if count <= 0:
        return 0, 0
    for place in range(bins):
        for sample in range(count):
            at = low + np.float32(place) * width + (np.float32(sample) + np.float32(0.5)) * width / np.float32(count)
            if at < -1 or at > length:
                continue
            at = max(at, np.float32(0))
            pixel = int(at)
            share = at - np.float32(pixel)
            if pixel >= length - 1:
                pixel, share = length - 1, np.float32(0)
            first = min(first, pixel)
            last = max(last, pixel + 1)
            weights[place, pixel] += (1 - share) / np.float32(count)
            if share > 0:
                weights[place, pixel + 1] += share / np.float32(count)
                last = max(last, pixel + 2)
    return first, last


@njit(cache=True, nogil=True)
def _gather(maps, boxes, out, scale, sampling, start, stop):  # type: ignore[no-untyped-def]
    """Fill out (R, C, h, w) in the channels from start to stop from maps (B, H, W, C)."""
    height, width = maps.shape[1], maps.shape[2]
    rows, columns = out.shape[2], out.shape[3]
    channels = stop - start
    by_row, by_column = np.zeros((rows, height), np.float32), np.zeros((columns, width), np.float32)
    total = np.empty((rows, columns, channels), np.float32)
    reduced = np.empty((columns, channels), np.float32)
    half = np.float32(0.5)
    for r in range(len(boxes)):
        if not np.isfinite(boxes[r]).all():
            out[r, start:stop] = np.nan
            continue
        y0, y1 = _axis(boxes[r, 2] * scale - half, boxes[r, 4] * scale - half, height, rows, sampling, by_row)
        x0, x1 = _axis(boxes[r, 1] * scale - half, boxes[r, 3] * scale - half, width, columns, sampling, by_column)
        image = maps[int(boxes[r, 0])]
        total[:] = 0
        for y in range(y0, y1):
            reduced[:] = 0
            for j in range(columns):
                for x in range(x0, x1):
                    weight = by_column[j, x]
                    if weight != 0:
                        line = image[y, x]
                        for c in range(channels):
                            reduced[j, c] += weight * line[start + c]
            for i in range(rows):
                weight = by_row[i, y]
                if weight != 0:
                    for j in range(columns):
                        for c in range(channels):
                            total[i, j, c] += weight * reduced[j, c]
        for c in range(channels):
            for i in range(rows):
                for j in range(columns):
                    out[r, start + c, i, j] = total[i, j, c]


@njit(cache=True, nogil=True)
def _scatter(maps, boxes, grad, scale, sampling, start, stop):  # type: ignore[no-untyped-def]
    """Add to maps (B, H, W, C) what grad (R, C, h, w) is to the channels from start to stop: _gather transposed."""
    height, width = maps.shape[1], maps.shape[2]
    rows, columns = grad.shape[2], grad.shape[3]
    channels = stop - start
    by_row, by_column = np.zeros((rows, height), np.float32), np.zeros((columns, width), np.float32)
    given = np.empty((rows, columns, channels), np.float32)
    spread = np.empty((columns, channels), np.float32)
    half = np.float32(0.5)
    for r in range(len(boxes)):
        if not np.isfinite(boxes[r]).all():
            continue
        y0, y1 = _axis(boxes[r, 2] * scale - half, boxes[r, 4] * scale - half, height, rows, sampling, by_row)
        x0, x1 = _axis(boxes[r, 1] * scale - half, boxes[r, 3] * scale - half, width, columns, sampling, by_column)
        image = maps[int(boxes[r, 0])]
        for c in range(channels):
            for i in range(rows):
                for j in range(columns):
                    given[i, j, c] = grad[r, start + c, i, j]
        for y in range(y0, y1):
            spread[:] = 0
            for i in range(rows):
                weight = by_row[i, y]
                if weight != 0:
                    for j in range(columns):
                        for c in range(channels):
                            spread[j, c] += weight * given[i, j, c]
            for j in range(columns):
                for x in range(x0, x1):
                    weight = by_column[j, x]
                    if weight != 0:
                        line = image[y, x]
                        for c in range(channels):
                            line[start + c] += weight * spread[j, c]
