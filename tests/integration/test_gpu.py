"""One step of each family on a GPU; skipped, with the reason, where PyTorch sees none."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from detectron2.config import instantiate

from d2tiny.layers.deform_attn import fused_deform_attn, reference_deform_attn
from d2tiny.layers.deform_attn_functions import unfused_deform_attn
from tests.helpers.attention import case
from tests.helpers.models import BATCHES, config, narrow, step

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", ["faster_rcnn_r18_fpn_rfla", "fcos_r18_p2_rfla", "yolox_s", "dino_r18"])
def test_trains_a_step(name):
    model = instantiate(narrow(config(f"quick/{name}")).model).to("cuda")
    for batch in BATCHES.values():
        step(model, batch)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deformable_attention_equals_grid_sample(dtype, width):
    value, shapes, _, weights = case(torch.float32, depth=32, queries=40)
    heads, levels, points = weights.shape[2:]
    samples = heads * levels * points
    references = torch.rand(2, 40, levels, width).cuda()
    inputs = (value, 2 * torch.randn(2, 40, 2 * samples), torch.randn(2, 40, samples))
    leaves = [x.to("cuda", dtype).requires_grad_() for x in inputs]
    found = []
    for function in (partial(unfused_deform_attn, attend=reference_deform_attn), fused_deform_attn):
        out = function(leaves[0], shapes, *leaves[1:], references)
        found.append([out, *torch.autograd.grad(out.float().square().sum(), leaves)])
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, atol=tolerance, rtol=tolerance)
