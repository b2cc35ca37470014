"""Depth-wise convolutions with large or dilated kernels: PyTorch's results and gradients, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from d2tiny.layers import DilatedDepthwise, depthwise_conv, onednn
from d2tiny.layers.depthwise import keep_depthwise_float32

SETTINGS = {
    "5x5": {"kernel_size": 5, "padding": 2},
    "5x5, stride 2, no padding": {"kernel_size": 5, "stride": 2},
    "5x5, stride 2": {"kernel_size": 5, "stride": 2, "padding": 2},
    "3x3, dilation 2": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "7x7, dilation 3": {"kernel_size": 7, "padding": 9, "dilation": 3},
    "dilation and stride": {"kernel_size": 3, "padding": 1, "dilation": 2, "stride": 2},
    "more padding than the kernel reaches": {"kernel_size": 5, "padding": 11, "dilation": 2},
    "two sides": {"kernel_size": (5, 7), "padding": (1, 9), "dilation": (1, 3), "bias": False},
    "strides of two sides": {"kernel_size": (7, 5), "padding": (3, 0), "stride": (1, 3)},
}


@pytest.fixture
def calls(monkeypatch):
    """Count gradients of weights that are computed here."""
    counted, own = [], depthwise_conv._weight_gradient
    monkeypatch.setattr(depthwise_conv, "_weight_gradient", lambda *args: counted.append(1) or own(*args))
    return counted


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_results_and_gradients_are_those_of_pytorch(settings, threads, calls):
    """At sizes that the dilation does not divide, and with more channels than one block has."""
    torch.manual_seed(0)
    expected = nn.Conv2d(261, 261, groups=261, **settings).double()
    ours = nn.Conv2d(261, 261, groups=261, **settings)
    ours.load_state_dict(expected.state_dict())
    keep_depthwise_float32(ours)
    images = torch.randn(2, 261, 20, 23).double()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = []
        for conv, x in ((expected, images.clone().requires_grad_()), (ours, images.float().requires_grad_())):
            out = conv(x)
            shares = torch.linspace(-1, 1, out.numel(), dtype=x.dtype).view_as(out)
            (out * shares).sum().backward()
            results.append([t.detach().double() for t in (out, x.grad, *(p.grad for p in conv.parameters()))])
    finally:
        torch.set_num_threads(before)
    assert len(calls) == 1
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(one.abs().max()))
    with torch.no_grad():
        for out in (ours(images.float()), onednn.conv2d(images.float(), ours.weight, ours.bias, ours)):
            torch.testing.assert_close(out.double(), results[0][0], rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_row_by_hand():
    """Pixels 1 2 3 4, dilation 2, padding 2, gradient 1 at the last pixel: it saw the pixels 2 and 4, and a zero."""
    conv = as_depthwise(nn.Conv2d(1, 1, (1, 3), padding=(0, 2), dilation=(1, 2), bias=False))
    out = conv(torch.tensor([[[[1.0, 2, 3, 4]]]]))
    out[0, 0, 0, 3].backward()
    assert conv.weight.grad.flatten().tolist() == [2, 4, 0]


def as_depthwise(conv):
    """Let a layer of one channel be computed as a depth-wise one."""
    conv._conv_forward = lambda x, weight, bias: depthwise_conv.depthwise_conv2d(x, weight, bias, conv)
    return conv


def test_only_what_is_needed_is_computed(calls):
    conv = DilatedDepthwise(4, 7, 3)
    x = torch.randn(1, 4, 9, 9, requires_grad=True)
    conv.requires_grad_(False)
    conv(x).sum().backward()
    assert not calls and x.grad is not None and conv.weight.grad is None
    conv.requires_grad_(True)
    conv(x.detach()).sum().backward()
    assert len(calls) == 1 and conv.weight.grad is not None


def test_what_is_left_to_pytorch(calls):
    """3×3 without dilation, float64, other groups, reflected borders, an image without pixels."""
    for conv, x in (
        (nn.Conv2d(4, 4, 3, groups=4), torch.randn(1, 4, 8, 8)),
        (nn.Conv2d(4, 4, 5, groups=4).double(), torch.randn(1, 4, 8, 8).double()),
        (nn.Conv2d(4, 8, 5, groups=4), torch.randn(1, 4, 8, 8)),
        (nn.Conv2d(4, 4, 5, padding=2, groups=4, padding_mode="reflect"), torch.randn(1, 4, 8, 8)),
        (nn.Conv2d(4, 4, 5, padding="same", groups=4), torch.randn(1, 4, 8, 8)),
        (nn.Conv2d(4, 4, 5, padding=2, groups=4), torch.randn(0, 4, 8, 8)),
    ):
        keep_depthwise_float32(conv)
        conv(x).sum().backward()
        assert conv.weight.grad is not None
    assert not calls
    conv, x = DilatedDepthwise(4, 7, 3), torch.randn(1, 4, 31, 33)
    traced = torch.jit.trace(conv, torch.randn(1, 4, 30, 30))
    torch.testing.assert_close(traced(x), conv(x))


def test_nan_and_infinity_are_kept():
    conv = DilatedDepthwise(2, 3, 2)
    x = torch.zeros(1, 2, 6, 6)
    x[0, 0, 2, 2], x[0, 1, 2, 2] = float("nan"), float("inf")
    out = conv(x)
    out.sum().backward()
    assert out[0, 0].isnan().sum() == 9 and out[0, 1].isinf().any()
    assert conv.weight.grad[0].isnan().any() and conv.weight.grad[1].isinf().any()


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 2), (7, 3)])
def test_layers_behind_it_may_change_its_result(kernel, dilation):
    """In place, and as a view of the layout that the input has."""
    torch.manual_seed(0)
    conv = DilatedDepthwise(4, kernel, dilation)
    for x in (torch.randn(2, 4, 21, 18), torch.randn(2, 4, 21, 18).contiguous(memory_format=torch.channels_last)):
        expected = conv(x).detach()
        torch.testing.assert_close(torch.nn.functional.relu_(conv(x)), expected.relu())
        out = conv(x)
        out += 1
        torch.testing.assert_close(out, expected + 1)
        assert conv(x).permute(0, 2, 3, 1).is_contiguous() or conv(x).is_contiguous()
        out.sum().backward()
        assert conv.weight.grad.isfinite().all()


def test_a_backward_pass_inside_autocast_stays_exact():
    torch.manual_seed(0)
    conv, x = DilatedDepthwise(4, 7, 3), torch.randn(1, 4, 20, 20, requires_grad=True)
    out = conv(x)
    with torch.autocast("cpu", torch.bfloat16):
        (inside,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    (outside,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(inside, outside)
