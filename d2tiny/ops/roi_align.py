"""RoIAlign on the CPU as a separable operation over contiguous channels, limited by memory bandwidth.

torchvision's loop reads the four neighbours of every sample for one channel at a time. The mean of bilinear samples in
a bin is a weighted sum of pixels whose weights are products of a row weight and a column weight. So each row of pixels
is first reduced to the bins' columns, then the rows are accumulated; every inner loop runs over contiguous channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2tiny.utils.compiled import njit
from d2tiny.utils.threads import ranges, run_in_threads

__all__ = ["roi_align"]

_MAX_COORDINATE = 1e7  # px; float32 cannot resolve pixels beyond, and a box would have too many samples


def roi_align(
    feature_maps: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    output_size: tuple[int, int],
    scales: Sequence[float],
    sampling_ratio: int = 0,
) -> Tensor:
    """Pool boxes from a feature pyramid with RoIAlign (``aligned=True`` of torchvision), on the CPU.

    The gradient flows into the feature maps only, as in torchvision. Boxes with NaN or with a coordinate beyond 10⁷ px
    give NaN.

    Args:
        feature_maps: L float32 tensors (B, C, H, W), one for each level.
        rois: (R, 5) float32, index of the image in the batch and XYXY in px of the image.
        levels: (R,) int64, index of the level of each box.
        output_size: h, w of the result in bins.
        scales: 1 / stride of each level.
        sampling_ratio: samples of a bin in each direction; 0 takes one for each pixel of the level that the bin spans.

    Returns:
        (R, C, h, w) float32.

    Raises:
        ValueError: wrong shapes, dtype or device, or an index outside the batch or the pyramid.
    """
    _check_arguments(feature_maps, rois, levels, scales)
    out: Tensor = _RoIAlign.apply(rois, levels, output_size, tuple(scales), sampling_ratio, *feature_maps)
    return out


def _check_arguments(maps: Sequence[Tensor], rois: Tensor, levels: Tensor, scales: Sequence[float]) -> None:
    if any(x.dim() != 4 or x.dtype != torch.float32 or x.device.type != "cpu" for x in maps) or rois.shape[1:] != (5,):
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype} {x.device}" for x in maps)
        raise ValueError(
            f"roi_align: needs float32 maps (B, C, H, W) and boxes (R, 5) of a processor, got {shapes} and boxes "
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


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rois: Tensor, levels: Tensor, size: tuple[int, int], scales: Any, sampling: int, *maps: Tensor
    ) -> Tensor:
        # float32 as in torchvision, so that a bin has the same number of samples.
        boxes = rois.detach().float().clone().numpy()  # a copy: the caller may modify rois before the backward pass
        ctx.level_indices = [np.flatnonzero(levels.numpy() == level) for level in range(len(maps))]
        ctx.boxes, ctx.shapes, ctx.settings = boxes, [x.shape for x in maps], (scales, sampling)
        out = maps[0].new_empty((len(boxes), maps[0].shape[1], *size))
        for x, indices, scale in zip(maps, ctx.level_indices, scales, strict=True):
            if len(indices):
                values = x.detach().permute(0, 2, 3, 1).contiguous().numpy()
                _run_by_channels(_pool, values, boxes, indices, out.numpy(), np.float32(scale), sampling)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scales, sampling = ctx.settings
        out_grad = grad.detach().contiguous().numpy()
        grads = []
        for shape, indices, scale in zip(ctx.shapes, ctx.level_indices, scales, strict=True):
            out = grad.new_zeros((shape[0], shape[2], shape[3], shape[1]))
            if len(indices):
                _run_by_channels(_pool_backward, out.numpy(), ctx.boxes, indices, out_grad, np.float32(scale), sampling)
            grads.append(out.permute(0, 3, 1, 2))
        return (None,) * 5 + tuple(grads)


def _run_by_channels(kernel: Any, maps: np.ndarray, *arguments: Any) -> None:
    """Run a kernel in PyTorch's number of threads, each on its own range of channels and on all boxes."""
    run_in_threads(kernel, ((maps, *arguments, *part) for part in ranges(maps.shape[3])))


@njit(cache=True, nogil=True)
def _bin_weights(low, high, length, sampling, weights, spans):  # type: ignore[no-untyped-def]
    """Compute the pixel weights of all bins along one axis.

    Fills weights (bins, length), valid from spans[bin, 0] to before spans[bin, 1], and spans (bins, 2). Returns the
    first pixel and the end of all spans together.
    """
    bins = len(weights)
    width = (high - low) / np.float32(bins)
    count = sampling if sampling > 0 else math.ceil(width)
    lowest, highest = length, 0
    part = np.float32(1) / np.float32(max(count, 1))
    for bin_ in range(bins):
        first, last = length, 0
        for sample in range(count):
            x = low + np.float32(bin_) * width + (np.float32(sample) + np.float32(0.5)) * width / np.float32(count)
            if x < -1 or x > length:
                continue
            x = max(x, np.float32(0))
            pixel = int(x)
            fraction = x - np.float32(pixel)
            if pixel >= length - 1:
                pixel, fraction = length - 1, np.float32(0)
            # weights is not initialised: pixels are set to zero when the span grows over them.
            if first > last:
                first, last = pixel, pixel
            while first > pixel:
                first -= 1
                weights[bin_, first] = 0
            end = pixel + 2 if fraction > 0 else pixel + 1
            while last < end:
                weights[bin_, last] = 0
                last += 1
            weights[bin_, pixel] += (1 - fraction) * part
            if fraction > 0:
                weights[bin_, pixel + 1] += fraction * part
        spans[bin_, 0], spans[bin_, 1] = first, last
        if first < last:
            lowest, highest = min(lowest, first), max(highest, last)
    return lowest, highest


@njit(cache=True, nogil=True)
def _box_weights(box, scale, sampling, row_weights, row_spans, column_weights, column_spans):  # type: ignore[no-untyped-def]
    """Compute the weights of rows and columns for one box (5,). Returns the range of rows."""
    half = np.float32(0.5)
    height, width = row_weights.shape[1], column_weights.shape[1]
    low, high = _bin_weights(box[2] * scale - half, box[4] * scale - half, height, sampling, row_weights, row_spans)
    _bin_weights(box[1] * scale - half, box[3] * scale - half, width, sampling, column_weights, column_spans)
    return low, high


@njit(cache=True, nogil=True)
def _buffers(height, width, rows, columns, channels):  # type: ignore[no-untyped-def]
    """Allocate the buffers of one call: row and column weights, their spans, all bins, and one row of bins."""
    row_weights, column_weights = np.empty((rows, height), np.float32), np.empty((columns, width), np.float32)
    row_spans, column_spans = np.empty((rows, 2), np.int64), np.empty((columns, 2), np.int64)
    bins, bin_row = np.empty((rows, columns, channels), np.float32), np.empty((columns, channels), np.float32)
    return row_weights, column_weights, row_spans, column_spans, bins, bin_row


@njit(cache=True, nogil=True)
def _pool(maps, boxes, indices, out, scale, sampling, start, stop):  # type: ignore[no-untyped-def]
    """Pool maps (B, H, W, C) into out (R, C, h, w) for the boxes ``indices``, in the channels from start to stop."""
    height, width = maps.shape[1], maps.shape[2]
    rows, columns = out.shape[2], out.shape[3]
    channels = stop - start
    row_weights, column_weights, row_spans, column_spans, bins, reduced = _buffers(
        height, width, rows, columns, channels
    )
    for r in indices:
        if not (np.abs(boxes[r]) <= _MAX_COORDINATE).all():
            out[r, start:stop] = np.nan
            continue
        low, high = _box_weights(boxes[r], scale, sampling, row_weights, row_spans, column_weights, column_spans)
        image = maps[int(boxes[r, 0])]
        bins[:] = 0
        for y in range(low, high):
            reduced[:] = 0
            for j in range(columns):
                end = column_spans[j, 1]
                x = column_spans[j, 0]
                while x + 1 < end:  # two pixels at a time halve the passes over reduced
                    left, right = column_weights[j, x], column_weights[j, x + 1]
                    here, there = image[y, x, start:stop], image[y, x + 1, start:stop]
                    for c in range(channels):
                        reduced[j, c] += left * here[c] + right * there[c]
                    x += 2
                if x < end:
                    left, here = column_weights[j, x], image[y, x, start:stop]
                    for c in range(channels):
                        reduced[j, c] += left * here[c]
            for i in range(rows):
                if row_spans[i, 0] <= y < row_spans[i, 1]:
                    weight = row_weights[i, y]
                    for j in range(columns):
                        for c in range(channels):
                            bins[i, j, c] += weight * reduced[j, c]
        target = out[r, start:stop]
        for c in range(channels):
            for i in range(rows):
                for j in range(columns):
                    target[c, i, j] = bins[i, j, c]


@njit(cache=True, nogil=True)
def _pool_backward(maps, boxes, indices, grad, scale, sampling, start, stop):  # type: ignore[no-untyped-def]
    """Add the gradient of :func:`_pool` to maps (B, H, W, C), given grad (R, C, h, w); the transposed operation."""
    height, width = maps.shape[1], maps.shape[2]
    rows, columns = grad.shape[2], grad.shape[3]
    channels = stop - start
    row_weights, column_weights, row_spans, column_spans, bins, spread = _buffers(
        height, width, rows, columns, channels
    )
    for r in indices:
        if not (np.abs(boxes[r]) <= _MAX_COORDINATE).all():
            continue
        low, high = _box_weights(boxes[r], scale, sampling, row_weights, row_spans, column_weights, column_spans)
        image = maps[int(boxes[r, 0])]
        source = grad[r, start:stop]
        for c in range(channels):
            for i in range(rows):
                for j in range(columns):
                    bins[i, j, c] = source[c, i, j]
        for y in range(low, high):
            spread[:] = 0
            for i in range(rows):
                if row_spans[i, 0] <= y < row_spans[i, 1]:
                    weight = row_weights[i, y]
                    for j in range(columns):
                        for c in range(channels):
                            spread[j, c] += weight * bins[i, j, c]
            for j in range(columns):
                for x in range(column_spans[j, 0], column_spans[j, 1]):
                    weight, line = column_weights[j, x], image[y, x, start:stop]
                    for c in range(channels):
                        line[c] += weight * spread[j, c]
