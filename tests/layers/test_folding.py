"""Folded batch normalisation and oneDNN's kernels: same results, same weights, same training."""

from __future__ import annotations

import contextlib
import copy
import pickle
from itertools import pairwise

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops.misc import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d
from torchvision.tv_tensors import Image

from d2tiny.engine.sync_norm import synchronise_norms
from d2tiny.layers import ConvAWS2d, onednn
from d2tiny.layers.depthwise import keep_depthwise_float32
from d2tiny.layers.folding import InferenceConv, prepare_for_inference
from d2tiny.layers.relu6 import keep_results_of_relu6


def randomised(module):
    """Weights and statistics as after some training."""
    for part in module.modules():
        if getattr(part, "running_mean", None) is not None:
            with torch.no_grad():
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
                part.weight.uniform_(0.5, 2)
                part.bias.normal_()
    return module.eval()


def sequence(norm):
    return nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, bias=False), norm(8), nn.ReLU(), nn.Conv2d(8, 4, 1))


def resnet_part(norm):
    stem = BasicStem(6, 8, norm=norm)
    block = BottleneckBlock(8, 12, bottleneck_channels=4, stride=2, norm=norm, stride_in_1x1=False)
    return nn.Sequential(stem, block)


MODULES = {
    "sequence": lambda: sequence(nn.BatchNorm2d),
    "no affine part": lambda: nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8, affine=False)),
    "frozen": lambda: sequence(FrozenBatchNorm2d),
    "detectron2": lambda: resnet_part("FrozenBN"),
    "detectron2, trained": lambda: resnet_part("BN"),
    "groups": lambda: nn.Sequential(nn.Conv2d(6, 6, 3, 2, groups=3), nn.BatchNorm2d(6)),
    "reflected": lambda: nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(8)),
    "standardised": lambda: ConvAWS2d(6, 8, 3, norm=nn.BatchNorm2d(8)),
}


@pytest.mark.parametrize("name", MODULES)
def test_evaluation_is_the_same_up_to_rounding_and_nothing_else_changes(name):
    torch.manual_seed(0)
    plain = MODULES[name]()
    if name != "no affine part":
        randomised(plain)
    fast = copy.deepcopy(plain.eval())
    folded = prepare_for_inference(fast)
    norms = sum(getattr(part, "running_mean", None) is not None for part in plain.modules())
    assert folded == norms == prepare_for_inference(fast)
    x = torch.randn(2, 6, 21, 19)
    with torch.no_grad():
        expected = plain(x)
        torch.testing.assert_close(fast(x), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(fast(x), fast(x), rtol=0, atol=0)
        torch.testing.assert_close(copy.deepcopy(fast)(x), fast(x), rtol=0, atol=0)
        torch.testing.assert_close(pickle.loads(pickle.dumps(fast))(x), fast(x), rtol=0, atol=0)
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in fast.named_modules()] == [n for n, _ in plain.named_modules()]
    # Frozen norms are folded in with gradients, too; all else is computed as it was.
    tolerance = 1e-5 if any(isinstance(part, FrozenBatchNorm2d) for part in plain.modules()) else 0
    torch.testing.assert_close(fast(x), plain(x), rtol=tolerance, atol=tolerance)
    for module in (plain, fast):
        module.train()
        module(x).square().mean().backward()
    for one, other in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=10 * tolerance, atol=tolerance)
    for one, other in zip(plain.buffers(), fast.buffers(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["sequence", "detectron2"])
def test_folded_weights_follow_every_change(name):
    torch.manual_seed(0)
    module, x = randomised(MODULES[name]()), torch.randn(1, 6, 16, 16)
    prepare_for_inference(module)
    conv = next(part for part in module.modules() if isinstance(part, nn.Conv2d))
    norm = next(part for part in module.modules() if getattr(part, "running_mean", None) is not None)

    def check():
        with torch.no_grad():
            fast = module(x)
        torch.testing.assert_close(fast, module(x), atol=1e-5, rtol=1e-5)
        return fast.detach()

    seen = [check()]
    with torch.no_grad():
        norm.running_mean.add_(1)
    seen.append(check())
    module.load_state_dict(randomised(MODULES[name]()).state_dict())
    seen.append(check())
    conv.weight = nn.Parameter(conv.weight.detach() * 2)
    seen.append(check())
    conv.weight.data = conv.weight.data / 3
    seen.append(check())
    norm.train()
    module(torch.randn(4, 6, 16, 16))
    norm.eval()
    check()
    assert all(not torch.allclose(one, other) for one, other in pairwise(seen))
    module.half().float()  # may get the old addresses back, with rounded weights
    check()
    module.double()
    x = x.double()
    assert check().dtype == torch.float64


def test_hooks_between_a_convolution_and_its_norm_see_what_they_should():
    torch.manual_seed(0)
    module, x = randomised(MODULES["sequence"]()), torch.randn(1, 6, 9, 9)
    prepare_for_inference(module)
    with torch.no_grad():
        before = module(x)
        handle = module[0].register_forward_hook(lambda _, __, out: out * 2)
        doubled = module(x)
        handle.remove()
        torch.testing.assert_close(module(x), before, rtol=0, atol=0)
    expected = copy.deepcopy(module)
    expected[0].register_forward_hook(lambda _, __, out: out * 2)
    torch.testing.assert_close(doubled, expected(x))
    assert not torch.allclose(doubled, before)


@pytest.mark.parametrize("name", ["sequence", "detectron2, trained"])
def test_a_norm_that_is_exchanged_is_obeyed(name):
    """As for training in several processes."""
    torch.manual_seed(0)
    module, x = randomised(MODULES[name]()), torch.randn(1, 6, 16, 16)
    prepare_for_inference(module)
    with torch.no_grad():
        expected = module(x)
        module = synchronise_norms(module, "cpu")
        torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)
        assert prepare_for_inference(module) > 0
        torch.testing.assert_close(module(x), expected, rtol=0, atol=0)


def test_a_norm_that_depends_on_the_batch_is_not_folded():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    own = Conv2d(3, 4, 1, norm=nn.GroupNorm(2, 4))
    assert prepare_for_inference(module) == prepare_for_inference(own) == 0
    x = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        for layer in (module.eval(), own.eval()):
            fast = layer(x)
            assert torch.isclose(fast.mean(), torch.zeros(()), atol=1e-5)
    assert "forward" not in own.__dict__


def test_maps_have_their_channels_last_and_mixed_precision_its_own_types():
    torch.manual_seed(0)
    module, x = randomised(MODULES["detectron2"]()), torch.randn(2, 6, 32, 32)
    prepare_for_inference(module)
    depthwise = randomised(nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6)))
    keep_depthwise_float32(depthwise)
    plain = copy.deepcopy(depthwise)
    prepare_for_inference(depthwise)
    with torch.no_grad():
        full = module(x)
        assert full.is_contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            assert module(x).dtype == torch.bfloat16
            torch.testing.assert_close(module(x).float(), full, atol=0.2, rtol=0.1)
            assert depthwise(x).dtype == torch.float32
            torch.testing.assert_close(depthwise(x), plain(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [{}, {"groups": 6, "bias": True}], ids=["plain", "depthwise, bias"])
@pytest.mark.parametrize("norm", [FrozenBatchNorm2d, TorchvisionFrozenBatchNorm2d])
def test_frozen_norms_are_folded_in_training(norm, channels, monkeypatch):
    """In each precision: the same types, losses and gradients, of the input as well, without a call of the norm."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, **{"bias": False, **channels})
    plain = randomised(nn.Sequential(conv, norm(6), nn.ReLU())).train()
    keep_depthwise_float32(plain)
    fast = copy.deepcopy(plain)
    assert prepare_for_inference(fast) == 1
    x = torch.randn(2, 6, 12, 9)
    for precision, tolerance in ((contextlib.nullcontext(), 1e-5), (torch.autocast("cpu", torch.bfloat16), 3e-2)):
        results = []
        for module in (plain, fast):
            module.zero_grad()
            given, calls, own = x.clone().requires_grad_(), [], norm.forward
            monkeypatch.setattr(norm, "forward", lambda self, x, own=own, calls=calls: calls.append(1) or own(self, x))
            with precision:
                out = module(given)
            monkeypatch.undo()
            assert bool(calls) == (module is plain)
            out.float().square().mean().backward()
            results.append((out, given.grad, *(parameter.grad for parameter in module.parameters())))
        for one, other in zip(*results, strict=True):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(one.detach().abs().max()))


def test_a_large_mean_is_subtracted_in_float32():
    """By norms that add in float32: rounded to bfloat16, -1,001 would be -1,000 and all else lost."""
    layers = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), TorchvisionFrozenBatchNorm2d(1, eps=0.0))
    nn.init.ones_(layers[0].weight)
    layers[1].running_mean.fill_(1001)
    prepare_for_inference(layers)
    with torch.autocast("cpu", torch.bfloat16):
        out = layers(torch.full((1, 1, 2, 2), 1000.0))
    assert out.dtype == torch.float32 and out.unique().tolist() == [-1.0]


@pytest.mark.parametrize("make", [nn.Parameter, Image], ids=["parameter", "image"])
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("name", ["sequence", "frozen"])
def test_tensors_of_other_classes_meet_their_norm(name, gradients, make):
    """A picture that is itself optimised: the convolution does not fold it, and the norm has to know."""
    torch.manual_seed(0)
    plain = randomised(MODULES[name]())
    fast, x = copy.deepcopy(plain), make(torch.randn(1, 6, 9, 9))
    prepare_for_inference(fast)
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(fast(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", ["conv", "norm"])
@pytest.mark.parametrize("own", [False, True], ids=["sequence", "detectron2"])
@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
)
def test_hooks_see_in_training_what_they_saw(register, own, place):
    """Each is called as often as in layers that nothing prepared, and changes the same."""
    torch.manual_seed(0)
    layer = Conv2d(6, 8, 3, bias=False, norm=FrozenBatchNorm2d(8))
    plain = randomised(layer if own else MODULES["frozen"]()).train()
    results, x = [], torch.randn(1, 6, 9, 9)
    for prepared in (False, True):
        module, seen = copy.deepcopy(plain), []
        if prepared:
            assert prepare_for_inference(module) == 1
        watched = {"conv": module if own else module[0], "norm": module.norm if own else module[1]}[place]
        getattr(watched, register)(
            lambda *maps, seen=seen: seen.append(maps[-1][0] if "backward" in register else maps[-1])
        )
        given = x.clone().requires_grad_()
        module(given).square().sum().backward()
        results.append((len(seen), [part[0] if isinstance(part, tuple) else part for part in seen], given.grad))
    assert results[0][0] == results[1][0] == 1
    torch.testing.assert_close(results[0][1:], results[1][1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_pass_is_repeated_as_it_was(reentrant):
    """By folded weights both times, with the gradients of a pass that keeps everything."""
    torch.manual_seed(0)
    module = randomised(MODULES["frozen"]()).train()
    prepare_for_inference(module)
    gradients = []
    for function in (module, lambda x: checkpoint(module, x, use_reentrant=reentrant)):
        module.zero_grad()
        torch.manual_seed(1)
        function(torch.randn(1, 6, 9, 9, requires_grad=True)).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters()])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_a_convolution_of_another_precision_than_its_norm():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(6, 8, 3, bias=False).bfloat16(), randomised(TorchvisionFrozenBatchNorm2d(8)))
    fast, x = copy.deepcopy(plain), torch.randn(1, 6, 9, 9).bfloat16()
    prepare_for_inference(fast)
    assert fast(x).dtype == plain(x).dtype == torch.float32
    torch.testing.assert_close(fast(x), plain(x), rtol=2e-2, atol=2e-2)


def test_what_is_between_or_otherwise_padded_is_not_folded():
    activated = nn.Sequential(Conv2d(3, 4, 1, activation=nn.ReLU()), nn.BatchNorm2d(4))
    reflected = Conv2d(3, 4, 3, padding=1, padding_mode="reflect", norm=nn.BatchNorm2d(4))
    assert prepare_for_inference(activated) == prepare_for_inference(reflected) == 0


def test_relu6_keeps_its_result_and_copies_nothing():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(inplace=True), nn.Conv2d(4, 2, 1), nn.ReLU6(inplace=False))
    with torch.no_grad():
        layers[0].weight.mul_(8)
    ours, x = copy.deepcopy(layers), torch.randn(2, 3, 8, 8)
    assert keep_results_of_relu6(ours) == 1  # the other one has no copy to save
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        got = ours(x)
    expected = layers(x)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    activated = [t for t in kept if t.shape == (2, 4, 8, 8)]
    assert len({t.data_ptr() for t in activated}) == 1 and activated[0].min() == 0 and activated[0].max() == 6
    for out in (got, expected):
        out.sum().backward()
    for one, other in zip(layers.parameters(), ours.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=0)
    traced = torch.jit.trace(ours[:2].eval(), x)
    assert {"aten::relu6", "aten::hardtanh_"} & {node.kind() for node in traced.inlined_graph.nodes()}
    assert pickle.loads(pickle.dumps(ours)).state_dict().keys() == layers.state_dict().keys()


def test_traced_and_compiled_modules_hold_the_original_operations():
    module, x = randomised(MODULES["detectron2"]()), torch.randn(1, 6, 16, 16)
    prepare_for_inference(module)
    with torch.no_grad():
        expected = module(x)
        traced = torch.jit.trace(module, x)
        exported = torch.export.export(module, (x,))
        torch.testing.assert_close(traced(x), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(exported.module()(x), expected, atol=1e-5, rtol=1e-5)
    assert "batch_norm" in str(traced.inlined_graph)
    assert "batch_norm" in str(exported.graph)
    assert not any("mkldnn" in str(node.target) for node in exported.graph.nodes)


@pytest.mark.parametrize("shape", [(7, 40), (2, 3, 40), (0, 40), (600, 40)])
def test_linear_layers(shape, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(onednn, "_LEAST_PRODUCTS", 0)
    layer, x = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 9, bias=False)).eval(), torch.randn(shape)
    plain = copy.deepcopy(layer)
    prepare_for_inference(layer)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(x), atol=1e-5, rtol=1e-5)
        transposed = torch.randn(40, *shape[:-1][::-1]).permute(*range(len(shape))[::-1])
        torch.testing.assert_close(layer(transposed), plain(transposed), atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=0)
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=0)
    assert list(layer.state_dict()) == list(plain.state_dict())


def test_without_onednn_pytorch_computes(monkeypatch):
    module, x = randomised(MODULES["detectron2"]()), torch.randn(1, 6, 16, 16)
    prepare_for_inference(module)
    with torch.no_grad():
        expected = module(x)
        monkeypatch.setattr(onednn, "_has_onednn", lambda: False)
        monkeypatch.setattr(torch, "mkldnn_convolution", None)
        torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)


def test_inference_conv_is_what_computes():
    module = MODULES["sequence"]()
    prepare_for_inference(module)
    assert isinstance(module[0].__dict__["forward"], InferenceConv)
    assert module[0].__dict__["forward"].norm is module[1]
