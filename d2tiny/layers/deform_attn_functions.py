"""Functions of multi-scale deformable attention (Zhu et al., Deformable DETR, 2021), and which kernel computes them.

Letters in shapes: B images, S tokens (the cells of all levels), Q queries, M heads, D channels of a head, L levels,
P sampling points of a head and level.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.deform_attn_cpu import DeformAttnCPU
from d2tiny.layers.deform_attn_kernels import MOST_SAMPLES
from d2tiny.utils.precision import without_autocast
from d2tiny.utils.tracing import is_traced

__all__ = [
    "fused_deform_attn",
    "level_sides",
    "ms_deform_attn",
    "reference_deform_attn",
    "sample_then_project",
    "sampling_first_pays",
    "unfused_deform_attn",
]

SpatialShapes = Sequence[tuple[int, int]]


def level_sides(spatial_shapes: SpatialShapes, like: Tensor) -> Tensor:
    """Return width and height of the levels in cells, (L, 2) in the type of ``like``; recorded graphs follow them."""
    one = like.new_ones(1)
    return torch.cat([part for h, w in spatial_shapes for part in (one * w, one * h)]).view(len(spatial_shapes), 2)


# Time of a multiply-add of a sample, forward and backward, in those of a matrix product, on one thread of a processor
# with AVX-512: products in bfloat16 are the faster ones.
_TAP = {torch.float32: 4, torch.float64: 4}
_TAP_HALF = 10


def ms_deform_attn(
    value: Tensor, spatial_shapes: SpatialShapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Return the weighted sum of bilinear samples, ``out_qm = Σ_l Σ_p A_qmlp · v_lm(location_qmlp)``.

    A location (x, y) in [0, 1] spans the feature map of its level: (0.5 / W, 0.5 / H) is the centre of the first cell.
    Outside the map the value is zero. CPUs run a numba kernel, GPUs a Triton kernel if Triton is installed; otherwise
    :func:`reference_deform_attn` is used. All give the same result up to rounding.

    Args:
        value: (B, S, M, D), S = Σ H·W.
        spatial_shapes: (H, W) of the L levels.
        sampling_locations: (B, Q, M, L, P, 2) x, y.
        attention_weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M·D) in the type of ``value``; half precision is computed in float32.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(value, spatial_shapes, sampling_locations, attention_weights)
    with without_autocast(value.device):
        if _numba_takes(value, attention_weights.shape[3] * attention_weights.shape[4]):
            where, weights = (x.to(_real(value)).flatten(3) for x in (sampling_locations, attention_weights))
            return _on_cpu(value, spatial_shapes, where, weights, None)
        if _triton_takes(value):
            where, weights = (x.float().flatten(3) for x in (sampling_locations, attention_weights))
            return _on_gpu(value, spatial_shapes, where, weights, None)
        return reference_deform_attn(value, spatial_shapes, sampling_locations, attention_weights)


def fused_deform_attn(
    value: Tensor, spatial_shapes: SpatialShapes, offsets: Tensor, logits: Tensor, reference_points: Tensor
) -> Tensor:
    """Compute :func:`ms_deform_attn` with a softmax over the logits of a head, at offsets from points or boxes.

    Softmax and locations are computed where they are used and never written, on CPUs and, with Triton, on GPUs.
    Elsewhere, in traced and compiled models, and if the reference points need a gradient, this is
    :func:`unfused_deform_attn`.

    Args:
        value: (B, S, M, D), S = Σ H·W.
        spatial_shapes: (H, W) of the L levels.
        offsets: (B, Q, M·L·P·2) x, y in cells around a point, in 1/P of half the sides around a box.
        logits: (B, Q, M·L·P).
        reference_points: (B, Q, L, 2) points x, y or (B, Q, L, 4) boxes cx, cy, w, h, in [0, 1] of the maps.

    Returns:
        (B, Q, M·D) in the type of ``value``; half precision is computed in float32.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check_raw(value.shape[:2], value.shape[2], spatial_shapes, offsets, logits, reference_points)
    heads = value.shape[2]
    on_gpu = _triton_takes(value)
    if not (on_gpu or _numba_takes(value, logits.shape[2] // heads)) or _needs_gradient(reference_points):
        return unfused_deform_attn(value, spatial_shapes, offsets, logits, reference_points)
    with without_autocast(value.device):
        if on_gpu:
            where, weights = (x.unflatten(2, (heads, -1)) for x in (offsets, logits))
            return _on_gpu(value, spatial_shapes, where, weights, reference_points.float())
        where, weights = _of_heads(offsets, logits, heads, _real(value))
        return _on_cpu(value, spatial_shapes, where, weights, reference_points.to(_real(value)))


def unfused_deform_attn(
    value: Tensor,
    spatial_shapes: SpatialShapes,
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
    attend: Callable[..., Tensor] = ms_deform_attn,
) -> Tensor:
    """Compute :func:`fused_deform_attn` by tensors of weights and locations, and ``attend`` of both."""
    levels, dtype = len(spatial_shapes), _real(value)
    shape = (*logits.shape[:2], value.shape[2], levels, logits.shape[2] // (value.shape[2] * levels))
    weights = logits.to(dtype).view(*shape[:3], -1).softmax(dim=-1).view(shape)
    steps, reference = offsets.to(dtype).view(*shape, 2), reference_points.to(dtype)[:, :, None, :, None]
    if reference.shape[-1] == 2:
        locations = reference + steps / level_sides(spatial_shapes, reference)[:, None]
    else:
        locations = reference[..., :2] + steps / shape[4] * reference[..., 2:] * 0.5
    return attend(value, spatial_shapes, locations, weights)


def sample_then_project(
    value: Tensor,
    projection: nn.Linear,
    num_heads: int,
    spatial_shapes: SpatialShapes,
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
    key_padding_mask: Tensor | None = None,
) -> Tensor:
    """Compute :func:`fused_deform_attn` of projected values by sampling first: only what is sampled is projected.

    Both are linear: ``Σ_j a_j (W_m x_j + b_m) = W_m Σ_j a_j x_j + b_m Σ_j a_j``, where j runs over the sampled cells
    inside the maps that are not padding, and W_m, b_m are the rows of head m. Both are computed in float32, also under
    autocast. Only where :func:`sampling_first_pays`.

    Args:
        value: (B, S, C), not projected.
        projection: from C to M·D channels, with bias.
        num_heads: M.
        spatial_shapes: as for :func:`fused_deform_attn`, also what follows.
        offsets: (B, Q, M·L·P·2).
        logits: (B, Q, M·L·P).
        reference_points: (B, Q, L, 2 or 4).
        key_padding_mask: (B, S) boolean, True for cells whose projected values count as zero.

    Returns:
        (B, Q, M·D) in the type of ``offsets``.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check_raw(value.shape[:2], num_heads, spatial_shapes, offsets, logits, reference_points)
    dtype = _real(value)
    shapes = tuple(map(tuple, spatial_shapes))
    with without_autocast(value.device):
        inputs = (*(x.to(dtype).unflatten(2, (num_heads, -1)) for x in (offsets, logits)), reference_points.to(dtype))
        sampled, mass = DeformAttnCPU.apply(value.to(dtype), shapes, *inputs, key_padding_mask)
        weight, bias = (x.to(dtype).unflatten(0, (num_heads, -1)) for x in (projection.weight, projection.bias))
        return (torch.einsum("bqmc,mdc->bqmd", sampled, weight) + mass[..., None] * bias).flatten(2).to(offsets.dtype)


def sampling_first_pays(value: Tensor, num_heads: int, offsets: Tensor, reference_points: Tensor) -> bool:
    """Return whether :func:`sample_then_project` takes less time than projecting all S tokens of ``value``.

    By the number of operations: ``Q·M·L·P·4·C`` of samples and ``Q·C·C`` of their projection against ``S·C·C`` of all
    tokens and ``Q·L·P·4·C`` of samples of single heads.

    Args:
        value: (B, S, C), not projected.
        num_heads: M.
        offsets: (B, Q, M·L·P·2).
        reference_points: what is sampled around; with a gradient only the other way is possible.
    """
    samples = offsets.shape[2] // (2 * num_heads)
    if not _numba_takes(value, samples) or _needs_gradient(reference_points):
        return False
    (cells, channels), queries = value.shape[1:], offsets.shape[1]
    tap = samples * 4 * channels * _TAP.get(offsets.dtype, _TAP_HALF)
    return queries * (num_heads * tap + channels * channels) < cells * channels * channels + queries * tap


def _on_cpu(
    value: Tensor, spatial_shapes: SpatialShapes, offsets: Tensor, logits: Tensor, references: Tensor | None
) -> Tensor:
    readable = value.float() if value.dtype == torch.float16 else value
    shapes = tuple(map(tuple, spatial_shapes))
    out: Tensor = DeformAttnCPU.apply(readable, shapes, offsets, logits, references, None)[0]
    return out.flatten(2).to(value.dtype)


def _on_gpu(
    value: Tensor, spatial_shapes: SpatialShapes, offsets: Tensor, logits: Tensor, references: Tensor | None
) -> Tensor:
    from d2tiny.layers.deform_attn_gpu import DeformAttnGPU

    out: Tensor = DeformAttnGPU.apply(value, tuple(map(tuple, spatial_shapes)), offsets, logits, references)
    return out.flatten(2)


def _numba_takes(value: Tensor, samples: int) -> bool:
    """Return whether the numba kernels compute this: on a CPU, not traced, no more samples than they have room for."""
    return value.device.type == "cpu" and not is_traced() and 0 < samples <= MOST_SAMPLES


def _triton_takes(value: Tensor) -> bool:
    """Return whether the Triton kernels compute this: on a GPU, not traced, not in float64."""
    return value.device.type == "cuda" and not is_traced() and value.dtype != torch.float64 and _has_triton()


def _needs_gradient(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad


def _real(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _of_heads(offsets: Tensor, logits: Tensor, heads: int, dtype: torch.dtype) -> list[Tensor]:
    """Return (B, Q, M, ·) in ``dtype``; bfloat16 stays, the kernels convert it head by head."""
    parts = (x.unflatten(2, (heads, -1)) for x in (offsets, logits))
    return [x if x.dtype == torch.bfloat16 and dtype == torch.float32 else x.to(dtype) for x in parts]


def _has_triton() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def _check(value: Tensor, spatial_shapes: SpatialShapes, locations: Tensor, weights: Tensor) -> None:
    if is_traced():
        return
    cells = sum(h * w for h, w in spatial_shapes)
    fits = value.dim() == 4 and value.shape[1] == cells and locations.dim() == 6 and locations.shape[-1] == 2
    fits = fits and locations.shape[:-1] == weights.shape and weights.shape[3] == len(spatial_shapes)
    if not fits or weights.shape[0] != value.shape[0] or weights.shape[2] != value.shape[2]:
        raise ValueError(
            f"ms_deform_attn: value {tuple(value.shape)} (B, S, M, D), {len(spatial_shapes)} levels with {cells} "
            f"cells, sampling_locations {tuple(locations.shape)} (B, Q, M, L, P, 2), attention_weights "
            f"{tuple(weights.shape)} (B, Q, M, L, P); they must fit."
        )


def _check_raw(
    tokens: Sequence[int],
    heads: int,
    spatial_shapes: SpatialShapes,
    offsets: Tensor,
    logits: Tensor,
    reference_points: Tensor,
) -> None:
    if is_traced():
        return
    (batch, cells), levels = tokens, len(spatial_shapes)
    fits = logits.dim() == 3 and logits.shape[0] == batch and cells == sum(h * w for h, w in spatial_shapes)
    fits = fits and logits.shape[2] > 0 and logits.shape[2] % (heads * levels) == 0
    fits = fits and offsets.shape == (*logits.shape[:2], 2 * logits.shape[2])
    if not fits or reference_points.shape not in [(*logits.shape[:2], levels, n) for n in (2, 4)]:
        raise ValueError(
            f"deformable attention: {batch} images of {cells} cells, {heads} heads, levels {tuple(spatial_shapes)}, "
            f"offsets {tuple(offsets.shape)} (B, Q, M·L·P·2), logits {tuple(logits.shape)} (B, Q, M·L·P), "
            f"reference_points {tuple(reference_points.shape)} (B, Q, L, 2 or 4); they must fit."
        )


def reference_deform_attn(
    value: Tensor, spatial_shapes: SpatialShapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Compute :func:`ms_deform_attn` by ``grid_sample`` in float32 or float64.

    Slow: the definition for tests, and what exported graphs hold.
    """
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    batch, _, heads, depth = value.shape
    queries, points = attention_weights.shape[1], attention_weights.shape[4]
    total = value.new_zeros((batch * heads, depth, queries), dtype=dtype)
    sample = functools.partial(F.grid_sample, mode="bilinear", padding_mode="zeros", align_corners=False)
    for level, part in enumerate(value.to(dtype).split([h * w for h, w in spatial_shapes], dim=1)):
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, depth, *spatial_shapes[level])
        locations = sampling_locations[:, :, :, level].to(dtype).transpose(1, 2)
        grid = 2 * locations.reshape(batch * heads, queries, points, 2) - 1
        weights = attention_weights[:, :, :, level].to(dtype).transpose(1, 2)
        weights = weights.reshape(batch * heads, 1, queries, points)
        if is_traced():  # a runtime fuses a chain of single points, which writes no samples
            for p in range(points):
                total = total + sample(maps, grid[:, :, p : p + 1]).flatten(2) * weights[..., p]
        else:
            total = total + (sample(maps, grid) * weights).sum(dim=-1)
    return total.view(batch, heads * depth, queries).transpose(1, 2).to(value.dtype)
