"""Blocks of the YOLO family."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from d2tiny.layers import C2PSA, SPP, C3k2, ConvBN, CSPLayer, DilatedDepthwise, Focus
from d2tiny.layers.attention import MapAttention


def count(module):
    return sum(p.numel() for p in module.parameters())


def trained(conv):
    """Statistics and weights as after some training."""
    with torch.no_grad():
        conv.norm.running_mean.normal_()
        conv.norm.running_var.uniform_(0.5, 2)
        conv.norm.weight.uniform_(0.5, 2)
        conv.norm.bias.normal_()
    return conv.eval()


@pytest.mark.parametrize("active", [True, False])
def test_folded_normalisation_gives_the_same(active):
    conv, x = trained(ConvBN(6, 8, 3, 2, with_activation=active)), torch.randn(2, 6, 9, 7)
    plain = conv(x)
    with torch.no_grad():
        folded = conv(x)
    assert conv.folding._folded is not None
    torch.testing.assert_close(plain, folded, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(conv(x), folded)


def test_folding_follows_every_change_of_the_weights():
    conv, x = trained(ConvBN(4, 4, 3)), torch.randn(1, 4, 5, 5)
    other = trained(ConvBN(4, 4, 3))
    with torch.no_grad():
        before = conv(x)
        conv.load_state_dict(other.state_dict())
        torch.testing.assert_close(conv(x), other(x))
        conv.norm.running_mean.add_(1)
        assert not torch.allclose(conv(x), other(x))
        conv.weight.mul_(0)
        assert conv(x).std(dim=(2, 3)).max() < 1e-6
    assert not torch.allclose(before, conv(x))
    assert set(conv.state_dict()) == set(other.state_dict())


def test_folding_survives_what_pytorch_does_not_count():
    """Fused optimizers and the running statistics of a training pass change tensors without a new version."""
    conv, x = trained(ConvBN(4, 4, 3)), torch.randn(8, 4, 5, 5)
    optimizer = torch.optim.AdamW(conv.parameters(), lr=0.5, fused=True)
    with torch.no_grad():
        before = conv(x)
    conv.train()
    conv(x).sum().backward()
    optimizer.step()
    conv.eval()
    with torch.no_grad():
        after = conv(x)
    torch.testing.assert_close(after, conv(x.requires_grad_()), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before, after)
    with torch.inference_mode():
        late = trained(ConvBN(4, 4, 3))
        late(x)
        late.weight.mul_(0)
        assert late(x).std(dim=(2, 3)).max() < 1e-6


def test_folding_in_bfloat16_and_after_a_copy():
    conv, x = trained(ConvBN(4, 8, 3)), torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        full = conv(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = conv(x)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), full, atol=0.05, rtol=0.05)
        torch.testing.assert_close(conv(x), full)
        twin = copy.deepcopy(conv)
        twin.norm.bias.add_(1)
        assert not torch.allclose(twin(x), full)
        torch.testing.assert_close(pickle.loads(pickle.dumps(conv))(x), full)
        double = copy.deepcopy(conv).double()
        torch.testing.assert_close(double(x.double()).float(), full, atol=1e-5, rtol=1e-5)


def test_gradients_do_not_go_through_folded_weights():
    conv, x = trained(ConvBN(4, 4)), torch.randn(1, 4, 3, 3)
    conv(x).sum().backward()
    assert conv.weight.grad is not None
    assert conv.norm.weight.grad is not None


def test_three_pools_of_five_are_pools_of_five_nine_and_thirteen():
    spp, x = SPP(8, 8).eval(), torch.randn(1, 8, 20, 17)
    inner = spp.enter(x)
    pools = [inner, *(F.max_pool2d(inner, k, stride=1, padding=k // 2) for k in (5, 9, 13))]
    torch.testing.assert_close(spp(x), spp.join(torch.cat(pools, dim=1)))


def test_focus_order():
    """Top left, bottom left, top right, bottom right."""
    focus = Focus(1, 4).eval()
    stem_inputs = []
    focus.conv.register_forward_pre_hook(lambda module, inputs: stem_inputs.append(inputs[0]))
    focus(torch.tensor([[[[1.0, 3.0], [2.0, 4.0]]]]))
    assert stem_inputs[0].flatten().tolist() == [1, 2, 3, 4]


def test_attention_equals_a_slow_loop():
    torch.manual_seed(0)
    layer, x = MapAttention(128).eval(), torch.randn(1, 128, 3, 2)
    qkv = layer.qkv(x)[0].flatten(1)  # (256, 6)
    attended = torch.zeros(128, 6)
    for head in range(2):
        part = qkv[head * 128 : (head + 1) * 128]
        q, k, v = part[:32], part[32:64], part[64:]
        for i in range(6):
            weight = torch.stack([(q[:, i] * k[:, j]).sum() * 32**-0.5 for j in range(6)]).softmax(0)
            attended[head * 64 : (head + 1) * 64, i] = sum(weight[j] * v[:, j] for j in range(6))
    values = torch.cat((qkv[64:128], qkv[192:])).view(1, 128, 3, 2)
    expected = layer.project(attended.view(1, 128, 3, 2) + layer.position(values))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)


def test_numbers_of_parameters_by_hand():
    """Convolutions c·c'·k² and two numbers of normalisation a channel; all of YOLO11m's layers are in test_yolo.py."""
    assert count(ConvBN(3, 8, 3)) == 3 * 8 * 9 + 16
    hidden = 4 * (8 * 4 + 8) // 4 * 1
    assert hidden == 40  # 1×1 8 → 4 with its normalisation
    bottleneck = (4 * 4 + 8) + (4 * 4 * 9 + 8)
    assert count(CSPLayer(8, 8, 2)) == 2 * 40 + 2 * bottleneck + (8 * 8 + 16)
    inner = (4 * 2 * 9 + 4) + (2 * 4 * 9 + 8)
    assert count(C3k2(8, 8, 1)) == (8 * 8 + 16) + inner + (12 * 8 + 16)


@pytest.mark.parametrize("size", [(1, 1), (5, 9)])
def test_shapes(size):
    x = torch.randn(2, 64, *size)
    for block in (C2PSA(64, 1), C3k2(64, 64, 2, c3k=True), SPP(64, 64), CSPLayer(64, 64, 1, shortcut=False)):
        assert block.eval()(x).shape == x.shape


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dilated_depthwise_has_a_gradient_in_bfloat16(layout):
    """PyTorch's own gradient contains uninitialised memory here; memory filled with NaN shows it."""
    layer = DilatedDepthwise(128, 3, 2, bias=False)
    x = torch.randn(8, 128, 40, 40).to(memory_format=layout)
    layer(x).sum().backward()
    expected, layer.weight.grad = layer.weight.grad, None
    poison = torch.full((5_000_000,), torch.nan)
    del poison
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x.bfloat16())
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    torch.testing.assert_close(layer.weight.grad, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))
