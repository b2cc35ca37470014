"""Deformable attention: numba and Triton kernels against loops and grid_sample."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch

from d2tiny.layers.deform_attn import MSDeformAttn, ms_deform_attn, reference_deform_attn
from tests.helpers.attention import case


def slow(value, spatial_shapes, locations, weights):
    """One sample and corner at a time."""
    batch, queries, heads, _, points, _ = locations.shape
    out = torch.zeros(batch, queries, heads, value.shape[3], dtype=value.dtype)
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                start = 0
                for level, (h, w) in enumerate(spatial_shapes):
                    for p in range(points):
                        x = float(locations[b, q, m, level, p, 0]) * w - 0.5
                        y = float(locations[b, q, m, level, p, 1]) * h - 0.5
                        for cy in (math.floor(y), math.floor(y) + 1):
                            for cx in (math.floor(x), math.floor(x) + 1):
                                if 0 <= cx < w and 0 <= cy < h:
                                    share = (1 - abs(x - cx)) * (1 - abs(y - cy))
                                    row = value[b, start + cy * w + cx, m]
                                    out[b, q, m] += float(weights[b, q, m, level, p]) * share * row
                    start += h * w
    return out.flatten(2)


@pytest.mark.parametrize("function", [ms_deform_attn, reference_deform_attn])
def test_equals_a_slow_loop(function):
    args = case()
    torch.testing.assert_close(function(*args), slow(*args))


@pytest.mark.parametrize("queries", [1, 7])  # values in place, or copied for each head
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_equal_those_of_grid_sample(dtype, queries):
    value, spatial_shapes, locations, weights = case(dtype, queries=queries)
    grad_out = torch.randn(2, queries, 12, dtype=dtype)
    found = []
    for function in (ms_deform_attn, reference_deform_attn):
        leaves = [x.clone().requires_grad_() for x in (value, locations, weights)]
        out = function(leaves[0], spatial_shapes, leaves[1], leaves[2])
        found.append(torch.autograd.grad(out, leaves, grad_out))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=2e-5 if dtype == torch.float32 else 1e-10, rtol=1e-4)


def test_gradcheck():
    value, spatial_shapes, locations, weights = case(queries=3, heads=2, depth=3)
    leaves = [x.requires_grad_() for x in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, p, w: ms_deform_attn(v, spatial_shapes, p, w), leaves)


def test_borders_and_far_locations():
    """The middle of the first cell is its value; the very corner a quarter of it; beyond is nothing, as is NaN."""
    value = torch.tensor([[[[8.0]], [[4.0]], [[2.0]], [[6.0]]]])
    locations = torch.tensor(
        [[0.25, 0.25], [0.0, 0.0], [1.0, 1.0], [0.5, 0.5], [-0.3, 0.5], [9.0, 9.0], [math.nan, 0.5]]
    )
    locations = locations.view(1, 7, 1, 1, 1, 2)
    out = ms_deform_attn(value, [(2, 2)], locations, torch.ones(1, 7, 1, 1, 1))
    assert out.flatten().tolist() == [8, 2, 1.5, 5, 0, 0, 0]


def test_threads_change_no_bit():
    value, spatial_shapes, locations, weights = case(torch.float32, queries=50, heads=8, depth=8)
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            leaves = [x.clone().requires_grad_() for x in (value, locations, weights)]
            out = ms_deform_attn(leaves[0], spatial_shapes, leaves[1], leaves[2])
            results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_half_precision_is_computed_in_float32():
    value, spatial_shapes, locations, weights = case(torch.float32)
    half = ms_deform_attn(value.bfloat16(), spatial_shapes, locations, weights)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, reference_deform_attn(value.bfloat16(), spatial_shapes, locations, weights))


def test_nothing_to_do():
    value, spatial_shapes, locations, weights = case(torch.float32, queries=0)
    assert ms_deform_attn(value, spatial_shapes, locations, weights).shape == (2, 0, 12)


@pytest.mark.parametrize("part", [0, 1, 2, 3])
def test_shapes_that_do_not_fit_are_refused(part):
    args = list(case(torch.float32))
    args[part] = [(4, 4)] if part == 1 else args[part][:1]
    with pytest.raises(ValueError, match="must fit"):
        ms_deform_attn(*args)


TRITON = """
import torch
from d2tiny.layers.deform_attn_functions import reference_deform_attn, unfused_deform_attn
from d2tiny.layers.deform_attn_gpu import DeformAttnGPU
from tests.helpers.attention import case

def compare(leaves, slow, fast, dtype):
    found, grad_out = [], None
    for function in (slow, fast):
        mine = [x.clone().requires_grad_() for x in leaves]
        out = function(*mine)
        grad_out = torch.randn_like(out) if grad_out is None else grad_out
        found.append([out, *torch.autograd.grad(out, mine, grad_out)])
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for one, two in zip(*found, strict=True):
        assert one.dtype == two.dtype
        torch.testing.assert_close(two, one, atol=tolerance, rtol=tolerance)

for dtype, depth, queries in ((torch.float32, 6, 21), (torch.float32, 8, 3), (torch.float16, 4, 17)):
    value, shapes, locations, weights = case(torch.float32, depth=depth, queries=queries)
    given = lambda v, p, w: DeformAttnGPU.apply(v, tuple(shapes), p.flatten(3), w.flatten(3), None).flatten(2)
    compare((value.to(dtype), locations, weights), lambda v, p, w: reference_deform_attn(v, shapes, p, w), given, dtype)
    for width in (2, 4):  # fused, in the types of a model under autocast too; references beyond the border
        heads, levels, points = weights.shape[2:]
        references = torch.rand(2, queries, levels, width) * 1.2 - 0.1
        samples = heads * levels * points
        offsets, logits = torch.randn(2, queries, 2 * samples), torch.randn(2, queries, samples)
        offsets, logits = (2 * offsets).to(dtype), (2 * logits).to(dtype)
        unfused = lambda v, o, a: unfused_deform_attn(v, shapes, o, a, references, reference_deform_attn)
        parts = lambda *xs: (x.unflatten(2, (heads, -1)) for x in xs)
        fused = lambda v, o, a: DeformAttnGPU.apply(v, tuple(shapes), *parts(o, a), references).flatten(2)
        compare((value.to(dtype), offsets, logits), unfused, fused, dtype)
print("equal")
"""


@pytest.mark.slow
def test_triton_in_its_interpreter():
    """The GPU's kernels, step by step on the processor."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", TRITON],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip().endswith("equal"), done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 2, 4])
def test_triton_compiles_for_gpus(kind, monkeypatch, tmp_path):
    """The interpreter takes what the compiler refuses, such as a constant that is assigned twice."""
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from d2tiny.layers import deform_attn_gpu as kernels

    sizes = dict.fromkeys(("queries", "cells", "heads", "depth"), "i32")
    constants = {"L": 5, "P": 4, "D": 32, "N": 32, "KIND": kind, "BLOCK": 16}
    for real, capability in (("*bf16", 80), ("*fp32", 90)):
        given = real if kind else "*fp32"
        inputs = {"value": real, "spatial_shapes": "*i32", "offsets": given, "logits": given, "references": "*fp32"}
        backward = {"out": real, "grad_out": real, "grad_value": "*fp32", "grad_offsets": given, "grad_logits": given}
        for kernel, more in ((kernels._forward, {"out": real}), (kernels._backward, backward)):
            signature = inputs | more | sizes | dict.fromkeys(constants, "constexpr")
            compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", capability, 32))
            assert compiled.asm["cubin"]


def test_heads_sample_in_eight_directions_at_first():
    """(1, 0), (1, 1), (0, 1), …, p + 1 cells far; all points have the same weight."""
    layer = MSDeformAttn(embed_dim=16, num_heads=8, num_levels=2, num_points=3)
    offsets = layer.sampling_offsets.bias.view(8, 2, 3, 2)
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, direction in enumerate(directions):
        for point in range(3):
            expected = torch.tensor(direction).float() * (point + 1)
            torch.testing.assert_close(offsets[head, :, point], expected.expand(2, 2), atol=1e-5, rtol=0)
    assert not layer.attention_weights.weight.any()


def test_layer_equals_its_formula():
    torch.manual_seed(0)
    layer = MSDeformAttn(embed_dim=8, num_heads=2, num_levels=2, num_points=2)
    torch.nn.init.normal_(layer.sampling_offsets.weight, std=0.5)
    torch.nn.init.normal_(layer.attention_weights.weight)
    spatial_shapes = [(4, 3), (2, 2)]
    query, memory, padding = torch.randn(1, 5, 8), torch.randn(1, 16, 8), torch.rand(1, 16) < 0.2
    for width in (2, 4):
        reference = torch.rand(1, 5, 2, width)
        value = layer.value_proj(memory).masked_fill(padding[..., None], 0).view(1, 16, 2, 4)
        weights = layer.attention_weights(query).view(1, 5, 2, 4).softmax(-1).view(1, 5, 2, 2, 2)
        offsets = layer.sampling_offsets(query).view(1, 5, 2, 2, 2, 2)
        locations = torch.zeros(1, 5, 2, 2, 2, 2)
        for level, (h, w) in enumerate(spatial_shapes):
            if width == 2:
                step = offsets[:, :, :, level] / torch.tensor([w, h])
            else:
                step = offsets[:, :, :, level] / 2 * reference[:, :, None, level, None, 2:] * 0.5
            locations[:, :, :, level] = reference[:, :, None, level, None, :2] + step
        expected = layer.output_proj(slow(value, spatial_shapes, locations, weights))
        torch.testing.assert_close(
            layer(query, reference, memory, spatial_shapes, padding), expected, atol=1e-5, rtol=1e-4
        )


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="num_heads must divide"):
        MSDeformAttn(embed_dim=10, num_heads=4)
