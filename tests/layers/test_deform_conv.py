"""The processor's deformable convolution against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import deform_conv2d as reference

from d2tiny.layers.deform_conv import deform_conv2d


@pytest.mark.parametrize(("height", "width"), [(9, 13), (1, 1), (1, 6), (5, 1), (16, 16)])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [((1, 1), (1, 1), (1, 1)), ((2, 2), (3, 3), (3, 3)), ((2, 1), (2, 1), (2, 1))]
)
@pytest.mark.parametrize("spread", [0.0, 0.7, 8.0])
def test_values_and_gradients(height, width, stride, padding, dilation, spread):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, height, width), torch.randn(4, 3, 3, 3)
    bias = torch.randn(4)
    plain = F.conv2d(x, weight, bias, stride, padding, dilation)
    offset = torch.randn(2, 18, *plain.shape[-2:]) * spread
    results = []
    for function in (
        lambda *a: deform_conv2d(*a, stride=stride, padding=padding, dilation=dilation),
        lambda *a: reference(*a, stride, padding, dilation),
    ):
        leaves = [t.clone().requires_grad_() for t in (x, offset, weight, bias)]
        out = function(*leaves)
        out.square().sum().backward()
        results.append([out, *(t.grad for t in leaves)])
    names = ("value", "x", "offset", "weight", "bias")
    for name, ours, theirs in zip(names, *results, strict=True):
        if name == "offset" and not spread:
            continue  # at integer locations the slope is that of one side or the other
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")
    if not spread:
        torch.testing.assert_close(results[0][0], plain, rtol=1e-4, atol=1e-4)


def test_half_precision_comes_back_as_it_was():
    x = torch.randn(1, 2, 5, 5).bfloat16()
    out = deform_conv2d(x, torch.zeros(1, 18, 5, 5).bfloat16(), torch.randn(3, 2, 3, 3), padding=(1, 1))
    assert out.dtype == torch.bfloat16
    assert out.shape == (1, 3, 5, 5)


def test_offsets_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"offset must be \(1, 18, 3, 3\), got \(1, 18, 5, 5\)"):
        deform_conv2d(torch.zeros(1, 2, 5, 5), torch.zeros(1, 18, 5, 5), torch.zeros(3, 2, 3, 3))
