"""Standardised and switchable convolutions against plain ones (docs/papers/detectors.md)."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import Conv2d, get_norm
from torch.nn import functional as F

from d2tiny.layers import ConvAWS2d, SAConv2d


def conv(stride=1, norm="", bias=False, dilation=1):
    torch.manual_seed(0)
    layer = Conv2d(
        5, 8, 3, stride=stride, padding=dilation, dilation=dilation, bias=bias, norm=get_norm(norm, 8) if norm else None
    )
    layer.weight.data.mul_(3).add_(0.7)
    return layer


@pytest.mark.parametrize("cls", [ConvAWS2d, SAConv2d])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(9, 12), (8, 8), (1, 1), (2, 5)])
def test_starts_as_the_plain_convolution(cls, stride, size):
    plain = conv(stride, "BN", bias=True).eval()
    x = torch.randn(2, 5, *size)
    torch.testing.assert_close(cls.from_conv(plain).eval()(x), plain(x), rtol=1e-4, atol=1e-5)


def test_standardisation_by_hand():
    """Weights 1, 3 have mean 2 and variance 2: with γ = 5 and β = 7 they become 7 ∓ 5/√2."""
    layer = ConvAWS2d(2, 1, 1, bias=False)
    layer.weight.data = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    layer.weight_gamma.fill_(5.0)
    layer.weight_beta.fill_(7.0)
    shift = 5 / 2**0.5
    torch.testing.assert_close(
        layer.standardized_weight().flatten(), torch.tensor([7 - shift, 7 + shift]), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("cls", [ConvAWS2d, SAConv2d])
def test_pretrained_weights_are_used_unchanged(cls):
    """A plain checkpoint has no γ and β; within 1e-5 (docs/papers/detectors.md#weight-standardisation)."""
    layer, weight = cls(5, 8, 3, padding=1, bias=False), torch.randn(8, 5, 3, 3) * 0.02 + 0.1
    result = layer.load_state_dict({"weight": weight}, strict=False)
    assert "weight_gamma" not in result.missing_keys
    assert float((layer.standardized_weight().detach() - weight).abs().max()) < 1e-5
    # A checkpoint of this layer keeps what it learned.
    layer.weight_gamma.mul_(2)
    other = cls(5, 8, 3, padding=1, bias=False)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.standardized_weight(), layer.standardized_weight())


def test_switch_mixes_two_dilations():
    """S = 0.25: a quarter of the convolution, three quarters of the one with thrice the dilation and W + ΔW."""
    layer = SAConv2d.from_conv(conv()).eval()
    layer.switch.bias.data.fill_(0.25)
    layer.weight_diff.data = torch.randn_like(layer.weight)
    x = torch.randn(1, 5, 12, 14)
    weight = layer.standardized_weight()
    small, large = F.conv2d(x, weight, padding=1), F.conv2d(x, weight + layer.weight_diff, padding=3, dilation=3)
    torch.testing.assert_close(layer(x), 0.25 * small + 0.75 * large, rtol=1e-4, atol=1e-4)


def test_offsets_move_the_kernel():
    """An offset of one pixel in y and x for every tap reads the picture from there."""
    layer = SAConv2d.from_conv(conv()).eval()
    layer.offset_small.bias.data.fill_(1.0)
    x = torch.zeros(1, 5, 12, 12)
    x[..., 3:9, 3:9] = torch.randn(1, 5, 6, 6)
    moved = F.conv2d(torch.roll(x, (-1, -1), (2, 3)), layer.standardized_weight(), padding=1)
    torch.testing.assert_close(layer(x), moved, rtol=1e-4, atol=1e-4)


def test_contexts_are_global():
    layer = SAConv2d.from_conv(conv()).eval()
    layer.pre_context.bias.data.fill_(0.5)
    layer.post_context.bias.data.fill_(2.0)
    x = torch.randn(1, 5, 6, 7)
    torch.testing.assert_close(
        layer(x), F.conv2d(x + 0.5, layer.standardized_weight(), padding=1) + 2, rtol=1e-4, atol=1e-4
    )


def test_gradients_reach_everything():
    """After the first step nothing stands still: with other weights all parameters have a gradient."""
    layer = SAConv2d.from_conv(conv(bias=True))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    layer(torch.randn(2, 5, 9, 9)).square().sum().backward()
    assert not [name for name, p in layer.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]


def test_bfloat16_autocast():
    layer = SAConv2d.from_conv(conv())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(torch.randn(1, 5, 8, 8))
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("stride", [1, 2])
def test_contexts_of_an_image_beside_a_larger_one(stride):
    """A kernel of one cell has no borders: the image's part is what it is alone, whatever the padding holds."""
    torch.manual_seed(0)
    layer = SAConv2d.from_conv(conv(stride)).eval()
    with torch.no_grad():
        layer.weight.zero_()[..., 1, 1] = torch.randn(8, 5)
        layer.weight_gamma.fill_(1.0), layer.weight_beta.zero_()
        for context in (layer.pre_context, layer.post_context):
            context.weight.normal_(), context.bias.normal_()
    kernel = layer.standardized_weight()
    assert kernel[..., 0, 0].abs().max() > 0  # standardised, it has borders after all …
    layer.standardized_weight = lambda: layer.weight  # … which this test leaves out
    x = torch.randn(2, 5, 12, 16)
    padding = torch.zeros(2, 1, 48, 64, dtype=torch.bool)
    padding[0, :, 32:], padding[0, :, :, 40:] = True, True
    x[0, :, 8:], x[0, :, :, 10:] = 1e3, 1e3
    beside, alone = layer(x, padding), [layer(x[:1, :, :8, :10]), layer(x[1:])]
    torch.testing.assert_close(beside[:1, :, : 8 // stride, : 10 // stride], alone[0])
    torch.testing.assert_close(beside[1:], alone[1])
    assert (layer(x)[:1, :, :2, :2] - alone[0][..., :2, :2]).abs().max() > 1


def test_other_kernels_are_refused():
    with pytest.raises(ValueError, match="needs a 3×3 kernel"):
        SAConv2d(4, 4, 1)
