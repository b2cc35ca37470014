"""Multi-scale deformable attention on CPUs: offsets, logits and values are read once, and nothing but the sum is kept.

``grid_sample`` writes all samples before they are weighted, 3.4 GB in an encoder layer of 800² px, and needs a tensor
of locations and one of weights, 100 MB each with what they are computed from. Here softmax, locations and samples of a
query and head live in registers and a few cache lines.

Heads are independent, also in the gradient of the values, so that any number of threads gives the same bits. The values
of one head are first copied into a contiguous array: with all heads interleaved, their rows would compete for a few
cache lines. Rows that are not projected yet are shared by the heads; there queries are independent, and the gradient is
computed image by image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from d2tiny.layers.deform_attn_kernels import MOST_SAMPLES, deform_attn_kernels
from d2tiny.utils.threads import run_in_threads

__all__ = ["MOST_SAMPLES", "DeformAttnCPU"]

_QUERIES = 64  # of one piece of work on rows that the heads share


@dataclass(frozen=True)
class _Arrays:
    """What the kernels read, as arrays; bfloat16 as its bits."""

    value: np.ndarray  # (B, S, M, D), or (B, S, C) if the heads share rows
    levels: np.ndarray  # (L, 3) height, width, first cell
    offsets: np.ndarray  # (B, Q, M, 2·L·P)
    logits: np.ndarray  # (B, Q, M, L·P)
    references: np.ndarray | None  # (B, Q, L, 2 or 4)
    padding: np.ndarray | None  # (B, S)
    real: type

    @property
    def shared(self) -> bool:
        return self.value.ndim == 3

    @property
    def worth_copying(self) -> bool:
        """Whether the values of a head are read so often that a contiguous copy of them pays."""
        queries, samples = self.logits.shape[1], self.logits.shape[3]
        return self.value.dtype == np.uint16 or queries * samples * 4 >= 2 * self.value.shape[1]

    def pieces(self) -> list[tuple[int, int, tuple[int, int]]]:
        """Return image, head and queries of independent pieces of work; head −1 means all."""
        batch, queries, heads, _ = self.logits.shape
        if not self.shared:
            return [(b, m, (0, queries)) for b in range(batch) for m in range(heads)]
        starts = range(0, queries, _QUERIES)
        return [(b, -1, (start, min(start + _QUERIES, queries))) for b in range(batch) for start in starts]

    def rows(self, b: int, m: int) -> tuple[np.ndarray, int, int]:
        """Return the values of a piece as a flat array, the entry where they start, and the stride of rows."""
        if self.shared:
            return self.value[b].reshape(-1), 0, self.value.shape[2]
        cells, heads, depth = self.value.shape[1:]
        if self.worth_copying:
            return _floats(self.value[b, :, m]).reshape(-1), 0, depth
        return self.value.reshape(-1), (b * cells * heads + m) * depth, heads * depth

    def arguments(self, b: int, m: int, queries: tuple[int, int], out: np.ndarray, mass: np.ndarray) -> tuple[Any, ...]:
        """Return the arguments of both kernels after the rows."""
        part = slice(m, m + 1) if self.offsets.dtype == np.uint16 else slice(None)
        offsets, logits = (_floats(x[b, :, part]) for x in (self.offsets, self.logits))
        references = np.empty((0, 0, 0), self.real) if self.references is None else self.references[b]
        padding = np.empty(0, np.bool_) if self.padding is None else self.padding[b]
        heads = (m, m + 1) if m >= 0 else (0, self.logits.shape[2])
        given = (self.levels, offsets, logits, references, padding, self.references is not None)
        return *given, out[b], mass[b] if self.shared else np.empty((0, 0), self.real), queries, heads, part.start or 0


class DeformAttnCPU(torch.autograd.Function):
    """Autograd function behind the doors of :mod:`d2tiny.layers.deform_attn`, in float32 or float64.

    Offsets and logits may be bfloat16, also the values if heads do not share rows; they are converted head by head.
    """

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        spatial_shapes: tuple[tuple[int, int], ...],
        offsets: Tensor,
        logits: Tensor,
        references: Tensor | None,
        padding: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Compute.

        Args:
            ctx: what PyTorch keeps for the gradient.
            value: (B, S, M, D), or (B, S, C) rows that all heads share.
            spatial_shapes: (H, W) of the levels.
            offsets: (B, Q, M, 2·L·P) offsets, or locations without ``references``.
            logits: (B, Q, M, L·P) attention logits, or weights without ``references``.
            references: (B, Q, L, 2 or 4) reference points or boxes.
            padding: (B, S) boolean, True for rows that count as zero.

        Returns:
            (B, Q, M, D or C) sums, and for shared rows (B, Q, M), the sum of the shares that fell on unpadded cells.
        """
        saved = (value, offsets, logits, references, padding)
        ctx.save_for_backward(*saved)
        ctx.spatial_shapes = spatial_shapes
        arrays = _arrays(spatial_shapes, *saved)
        kernel, _ = deform_attn_kernels(value.shape[-1], logits.shape[3], arrays.real is np.float32)
        out = np.empty((*logits.shape[:3], value.shape[-1]), arrays.real)
        mass: np.ndarray = np.empty(logits.shape[:3] if arrays.shared else (0,), arrays.real)

        def gather(b: int, m: int, queries: tuple[int, int]) -> None:
            kernel(*arrays.rows(b, m), *arrays.arguments(b, m, queries, out, mass))

        run_in_threads(gather, arrays.pieces())
        return torch.from_numpy(out), torch.from_numpy(mass)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_mass: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of value, offsets and logits."""
        saved = ctx.saved_tensors
        arrays = _arrays(ctx.spatial_shapes, *saved)
        _, kernel = deform_attn_kernels(saved[0].shape[-1], saved[2].shape[3], arrays.real is np.float32)
        grads = [np.zeros(x.shape, arrays.real) for x in saved[:3]]
        to_value, to_offsets, to_logits = grads
        out, mass = grad.contiguous().numpy(), grad_mass.contiguous().numpy()

        def scatter(b: int, m: int, queries: tuple[int, int]) -> None:
            values, first, stride = arrays.rows(b, m)
            copied = arrays.worth_copying and not arrays.shared
            target = np.zeros_like(values) if copied else to_value[b if arrays.shared else slice(None)].reshape(-1)
            to_inputs = (to_offsets[b], to_logits[b])
            rows = (values, first, stride)
            kernel(*rows, *arrays.arguments(b, m, queries, out, mass), target, first, stride, *to_inputs)
            if copied:
                to_value[b, :, m] = target.reshape(-1, to_value.shape[3])

        queries = (0, saved[2].shape[1])
        run_in_threads(scatter, [(b, -1, queries) for b in range(len(out))] if arrays.shared else arrays.pieces())
        back = (torch.from_numpy(g).to(x.dtype) for g, x in zip(grads, saved[:3], strict=True))
        by_value, by_offsets, by_logits = back
        return by_value, None, by_offsets, by_logits, None, None


def _arrays(
    spatial_shapes: tuple[tuple[int, int], ...],
    value: Tensor,
    offsets: Tensor,
    logits: Tensor,
    references: Tensor | None,
    padding: Tensor | None,
) -> _Arrays:
    start, levels = 0, []
    for height, width in spatial_shapes:
        levels.append((height, width, start))
        start += height * width
    around, hidden = (None if x is None else _numpy(x) for x in (references, padding))
    real = np.float64 if value.dtype == torch.float64 else np.float32
    shape = np.array(levels, dtype=np.int32).reshape(-1, 3)
    return _Arrays(_numpy(value), shape, _numpy(offsets), _numpy(logits), around, hidden, real)


def _numpy(x: Tensor) -> np.ndarray:
    x = x.detach().contiguous()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def _floats(x: np.ndarray) -> np.ndarray:
    """Return a contiguous array of floats of floats or of the bits of bfloat16."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else np.ascontiguousarray(x)
