"""Deformable attention from raw offsets and logits, and sampling before projecting, against tensors and grid_sample."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from d2tiny.layers import deform_attn
from d2tiny.layers.deform_attn import MSDeformAttn, fused_deform_attn, reference_deform_attn, sample_then_project
from d2tiny.layers.deform_attn_functions import sampling_first_pays, unfused_deform_attn
from tests.helpers.attention import SHAPES

CELLS = sum(h * w for h, w in SHAPES)
reference = partial(unfused_deform_attn, attend=reference_deform_attn)


def case(width=2, dtype=torch.float64, queries=7, heads=3, depth=4, shapes=SHAPES, points=2):
    """Values, level sizes, offsets of a few cells (many outside the maps), logits, points (2) or boxes (4)."""
    generator = torch.Generator().manual_seed(width)
    levels, cells = len(shapes), sum(h * w for h, w in shapes)
    value, offsets, logits = (
        torch.randn(2, *shape, generator=generator, dtype=dtype)
        for shape in ((cells, heads, depth), (queries, heads * levels * points * 2), (queries, heads * levels * points))
    )
    centres = torch.rand(2, queries, levels, width, generator=generator, dtype=dtype)
    return value, shapes, 2 * offsets, logits, centres


def gradients(function, value, shapes, offsets, logits, references):
    leaves = [x.clone().requires_grad_() for x in (value, offsets, logits)]
    out = function(leaves[0], shapes, leaves[1], leaves[2], references)
    return [out, *torch.autograd.grad(out.sin().sum(), leaves)]


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_equals_grid_sample_of_tensors(width, dtype):
    """Values and gradients, samples outside the maps included."""
    args = case(width, dtype)
    tolerance = {"atol": 2e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 1e-10, "rtol": 1e-9}
    for ours, theirs in zip(gradients(fused_deform_attn, *args), gradients(reference, *args), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_one_level_and_one_point():
    args = case(4, shapes=[(4, 3)], points=1)
    for ours, theirs in zip(gradients(fused_deform_attn, *args), gradients(reference, *args), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("width", [2, 4])
def test_gradcheck(width):
    value, shapes, offsets, logits, references = case(width, queries=2)
    leaves = [x.requires_grad_() for x in (value, offsets, logits)]
    assert torch.autograd.gradcheck(lambda v, o, a: fused_deform_attn(v, shapes, o, a, references), leaves)


def test_references_with_a_gradient_get_it():
    value, shapes, offsets, logits, references = case(4)
    found = []
    for function in (fused_deform_attn, reference):
        leaf = references.clone().requires_grad_()
        found.append(torch.autograd.grad(function(value, shapes, offsets, logits, leaf).sin().sum(), leaf)[0])
    assert found[0].abs().sum() > 0
    torch.testing.assert_close(*found)


def test_logits_that_are_not_finite():
    """NaN, +∞ and nothing but −∞ give NaN in their head alone, as a softmax does; −∞ is the weight 0."""
    value, shapes, offsets, logits, references = case(2, torch.float32)
    logits[0, 0, 1], logits[0, 1, 6 + 2], logits[0, 2, 12:], logits[0, 3, 4] = math.nan, math.inf, -math.inf, -math.inf
    out, expected = (f(value, shapes, offsets, logits, references) for f in (fused_deform_attn, reference))
    torch.testing.assert_close(out, expected, equal_nan=True, atol=2e-5, rtol=1e-4)
    assert out.view(2, 7, 3, 4).isnan().any(-1).nonzero().tolist() == [[0, 0, 0], [0, 1, 1], [0, 2, 2]]


def test_what_lies_outside_is_never_read():
    """Neither a sample far away nor one whose place is NaN sees a border cell, even if that is infinite."""
    value, shapes, offsets, logits, references = case(2, torch.float32)
    value[:, 0], offsets[:] = math.inf, 50.0
    offsets[:, :, 0] = math.nan
    assert not fused_deform_attn(value, shapes, offsets, logits, references).any()


def test_large_and_small_logits_have_the_weights_of_a_softmax():
    """The first level is 1, the others 0, no offsets: the sum of the first level's weights, whatever the logits are."""
    value, shapes, offsets, logits, references = case(2, torch.float32)
    value[:], offsets[:], references[:] = 0.0, 0.0, 0.5
    value[:, : 5 * 6] = 1.0
    for scale in (1e-3, 1.0, 30.0, 1e4):
        out = fused_deform_attn(value, shapes, offsets, logits * scale, references).view(2, 7, 3, 4)
        share = (logits * scale).view(2, 7, 3, 6).softmax(-1)[..., :2].sum(-1, keepdim=True)
        torch.testing.assert_close(out, share.expand(-1, -1, -1, 4), atol=1e-6, rtol=2e-6)


@pytest.mark.parametrize("queries", [2, 7])
def test_bfloat16_is_computed_in_float32(queries):
    value, shapes, offsets, logits, references = case(2, torch.float32, queries=queries)
    half = [x.bfloat16() for x in (value, offsets, logits)]
    full = [x.float() for x in half]
    ours = gradients(fused_deform_attn, half[0], shapes, *half[1:], references)
    exact = gradients(fused_deform_attn, full[0], shapes, *full[1:], references)
    for one, two in zip(ours, exact, strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one.float(), two, atol=2e-2, rtol=2e-2)


def project_first(value, layer, heads, shapes, offsets, logits, references, padding):
    projected = layer(value)
    if padding is not None:
        projected = projected.masked_fill(padding[..., None], 0.0)
    return reference(projected.unflatten(2, (heads, -1)), shapes, offsets, logits, references)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_sampling_first_equals_projecting_first(width, padded):
    """Outputs and all gradients; the bias counts where cells are inside and not padding. Padding may be infinite."""
    torch.manual_seed(0)
    _, shapes, offsets, logits, references = case(width)
    layer, value = nn.Linear(12, 12).double(), torch.randn(2, CELLS, 12, dtype=torch.float64)
    padding = torch.rand(2, CELLS) < 0.3 if padded else None
    found = []
    for function in (sample_then_project, project_first):
        leaves = [x.clone().requires_grad_() for x in (value, offsets, logits)]
        out = function(leaves[0], layer, 3, shapes, *leaves[1:], references, padding)
        found.append([out, *torch.autograd.grad(out.sin().sum(), [*leaves, layer.weight, layer.bias])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    if padded:
        value[padding] = math.inf
        again = sample_then_project(value, layer, 3, shapes, offsets, logits, references, padding)
        torch.testing.assert_close(again, found[0][0])


def test_the_cheaper_way_is_chosen():
    """A decoder samples first, an encoder projects first; nothing is sampled first around points with a gradient."""
    value, points = torch.zeros(1, 53294, 256), torch.zeros(1, 1, 5, 4)
    few, many = torch.zeros(1, 900, 320), torch.zeros(1, 1, 1).expand(1, 53294, 320)
    assert sampling_first_pays(value, 8, few, points)
    assert not sampling_first_pays(value, 8, many, points)
    assert not sampling_first_pays(value[:, :1000], 8, few, points)
    assert not sampling_first_pays(value, 8, few, points.requires_grad_())


def layer_case(queries=2):
    torch.manual_seed(0)
    layer = MSDeformAttn(embed_dim=12, num_heads=3, num_levels=3, num_points=2)
    nn.init.normal_(layer.sampling_offsets.weight, std=0.5)
    nn.init.normal_(layer.attention_weights.weight)
    query, value = torch.randn(1, queries, 12), torch.randn(1, CELLS, 12)
    return layer, query, torch.rand(1, queries, 3, 4), value


@pytest.mark.parametrize("amp", [False, True])
def test_both_ways_through_the_layer(monkeypatch, amp):
    """The layer gives the same either way, with one mask and without, also under autocast."""
    layer, query, references, value = layer_case()
    padding = torch.arange(CELLS)[None] % 5 == 0
    for mask in (None, padding):
        found = []
        for first in (False, True):
            monkeypatch.setattr(deform_attn, "sampling_first_pays", lambda *_, first=first: first)
            with torch.autocast("cpu", enabled=amp):
                found.append(layer(query, references, value, SHAPES, mask))
        assert found[0].dtype == found[1].dtype == (torch.bfloat16 if amp else torch.float32)
        torch.testing.assert_close(*found, atol=4e-2 if amp else 1e-5, rtol=4e-2 if amp else 1e-4)


def test_threads_change_no_bit_when_sampling_first():
    torch.manual_seed(0)
    _, shapes, offsets, logits, references = case(4, queries=150)
    layer, value, results = nn.Linear(12, 12).double(), torch.randn(2, CELLS, 12, dtype=torch.float64), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            leaves = [x.clone().requires_grad_() for x in (value, offsets, logits)]
            out = sample_then_project(leaves[0], layer, 3, shapes, *leaves[1:], references)
            results.append([out, *torch.autograd.grad(out.sin().sum(), leaves)])
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_traced_and_exported_layers_compute_the_same():
    """They contain PyTorch's own operations only."""
    layer, query, references, value = layer_case()
    with torch.no_grad():
        expected = layer(query, references, value, SHAPES)

        class Fixed(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = layer

            def forward(self, query, references, value):
                return self.layer(query, references, value, SHAPES)

        args = (query, references, value)
        for traced in (torch.jit.trace(Fixed(), args), torch.export.export(Fixed(), args).module()):
            torch.testing.assert_close(traced(*args), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_compiled_layer_computes_the_same():
    layer, query, references, value = layer_case()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        expected = layer(query, references, value, SHAPES)
        torch.testing.assert_close(compiled(query, references, value, SHAPES), expected, atol=1e-5, rtol=1e-4)


def test_nothing_to_do():
    value, shapes, offsets, logits, references = case(queries=0)
    assert fused_deform_attn(value, shapes, offsets, logits, references).shape == (2, 0, 12)


@pytest.mark.parametrize("part", range(5))
def test_shapes_that_do_not_fit_are_refused(part):
    args = list(case(dtype=torch.float32))
    args[part] = [(4, 4)] if part == 1 else args[part][:1]
    with pytest.raises(ValueError, match="must fit"):
        fused_deform_attn(*args)


@pytest.mark.parametrize("side", [1, 2, 3, 7, 64, 100, 128, 1000])
@pytest.mark.parametrize("at_once", [1, 400])  # few queries read values in place, many a copy for each head
def test_samples_at_the_edges(side, at_once):
    """The numbers around edges and middles of cells: nothing of the next row, nothing from behind the last one."""
    edges, inf = torch.tensor([-1.0, -0.5, 0.0, 0.5, side - 1.0, side - 0.5, side]), torch.tensor(math.inf)
    above, below = edges.nextafter(inf), edges.nextafter(-inf)
    # Cells from the centre of the first one.
    along = torch.cat([edges, above, above.nextafter(inf), below, below.nextafter(-inf)]).repeat(12)
    for shape, axis in [((2, side), 0), ((side, 2), 1)]:
        memory = torch.full((2 * side + 64, 1, 4), math.nan)
        memory[: 2 * side] = 100 + torch.randn(2 * side, 1, 4, generator=torch.Generator().manual_seed(side))
        offsets = torch.ones(1, len(along), 2)
        offsets[0, :, axis] = along
        references = torch.tensor([0.5 / shape[1], 0.5 / shape[0]]).expand(1, len(along), 1, 2)
        for q in range(0, len(along), at_once):
            part = (x[:, q : q + at_once] for x in (offsets, torch.zeros(1, len(along), 1), references))
            args = (memory[None, : 2 * side], [shape], *part)
            # The last digit of a place is 1e-7 of a side, and values are about 100.
            tolerance = {"atol": 3e-5 * max(side, 8), "rtol": 0}
            found = []
            for function in (fused_deform_attn, reference):
                value = args[0].clone().requires_grad_()
                found.append(torch.autograd.grad(function(value, *args[1:]).sum(), value)[0])
            torch.testing.assert_close(*found, **tolerance)
            torch.testing.assert_close(fused_deform_attn(*args), reference(*args), **tolerance)
