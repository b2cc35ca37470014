"""SARL: the relay between backbone and neck (docs/papers/sarl.md)."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec

from d2tiny.layers import DilatedDepthwise
from d2tiny.modeling.necks import FIM, SARL

SIZES = {"res2": (8, 33, 40), "res3": (16, 17, 20), "res4": (32, 9, 10), "res5": (64, 1, 1)}


def features(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(2, *shape, generator=generator).to(dtype).requires_grad_() for n, shape in SIZES.items()}


def sarl(**settings):
    torch.manual_seed(0)
    settings = {"in_channels": [8, 16, 32, 64], "norm": "BN", **settings}
    return SARL(**settings)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype):
    out = awake(sarl()).to(dtype).eval()(features(dtype))
    assert all(value.dtype == dtype and value.isfinite().all() for value in out.values())


def awake(module):
    with torch.no_grad():
        for scale in module.scale.values():
            scale.fill_(0.5)
    return module


@pytest.mark.parametrize("training", [True, False])
def test_identity_at_the_start(training):
    given = {**features(), "stem": torch.zeros(1)}
    out = sarl().train(training)(given)
    assert all(torch.equal(out[name], given[name]) for name in given)
    shapes = {name: ShapeSpec(channels=size[0], stride=4) for name, size in SIZES.items()}
    assert sarl().output_shape(shapes) is shapes


def test_gradient_reaches_the_level_above():
    given = features()
    awake(sarl())(given)["res2"].sum().backward()
    assert all(bool(f.grad.abs().sum() > 0) for f in given.values())
    given = features()
    awake(sarl(top_down=False))(given)["res2"].sum().backward()
    assert given["res3"].grad is not None and given["res4"].grad is None


def test_attention_is_between_0_and_1():
    fim = FIM(8, 16, norm="BN", activation="silu")
    aligned = torch.randn(2, 8, 5, 7) * 3
    channel, spatial = fim.attention(aligned)
    assert channel.shape == (2, 8, 1, 1) and spatial.shape == (2, 1, 5, 7)
    for weight in (channel, spatial):
        assert float(weight.min()) > 0 and float(weight.max()) < 1


@pytest.mark.parametrize(("off", "left"), [("use_channel", "spatial"), ("use_spatial", "channel")])
def test_parts_can_be_left_out(off, left):
    module = sarl(**{off: False})
    names = {n.split(".")[2] for n, _ in module.named_parameters() if n.startswith("fim")}
    assert names == {"align", left}
    assert sum(p.numel() for p in module.parameters()) < sum(p.numel() for p in sarl().parameters())
    assert torch.isfinite(awake(module)(features())["res2"]).all()


def test_without_the_maximum_the_channel_attention_is_that_of_the_mean():
    """The same weights; a single bright cell counts by its share of the image alone."""
    torch.manual_seed(0)
    fim = FIM(8, 16, norm="BN", activation="silu", channel_max=False)
    aligned = torch.randn(2, 8, 5, 7)
    torch.testing.assert_close(
        fim.attention(aligned)[0], torch.sigmoid(fim.channel(aligned.mean((2, 3), keepdim=True)))
    )
    assert sarl(channel_max=False).state_dict().keys() == sarl().state_dict().keys()
    with_max = FIM(8, 16, norm="BN", activation="silu")
    with_max.load_state_dict(fim.state_dict())
    assert not torch.allclose(with_max.attention(aligned)[0], fim.attention(aligned)[0])


@pytest.mark.parametrize("norm", ["GN", "BN"])
def test_an_image_beside_a_larger_one(norm):
    """Pooling and group norms leave the padding out; convolutions see up to 3 cells of it at each of two levels."""
    torch.manual_seed(0)
    relay = awake(SARL(in_channels=[32, 64], in_features=["res2", "res3"], norm=norm)).eval()
    x = {"res2": torch.randn(2, 32, 48, 64), "res3": torch.randn(2, 64, 24, 32)}
    padding = torch.zeros(2, 1, 192, 256, dtype=torch.bool)
    padding[0, :, 128:], padding[0, :, :, 160:] = True, True
    x["res2"][0, :, 32:], x["res2"][0, :, :, 40:] = 9, 9
    x["res3"][0, :, 16:], x["res3"][0, :, :, 20:] = 9, 9
    alone = relay({"res2": x["res2"][:1, :, :32, :40], "res3": x["res3"][:1, :, :16, :20]})
    beside, unmasked = relay(x, padding), relay(x)
    inside = {
        "res2": (slice(1), slice(None), slice(20), slice(28)),
        "res3": (slice(1), slice(None), slice(8), slice(12)),
    }
    for name, part in inside.items():
        # Statistics of a map whose border differs differ a little.
        errors = [(maps[name][part] - alone[name][part]).abs().mean() for maps in (beside, unmasked)]
        assert errors[0] < errors[1] / 4, errors


def test_by_hand():
    """One level, attention parts off: U = relu(norm(1×1 C)), out = C + γ · FEM(C, U)."""
    module = awake(sarl(in_channels=[4], in_features=["res5"], use_channel=False, use_spatial=False)).eval()
    x = torch.randn(1, 4, 3, 3)
    aligned = module.fim["res5"].align(x)
    torch.testing.assert_close(module({"res5": x})["res5"], x + 0.5 * module.fem["res5"](x, aligned))


def test_mistakes():
    with pytest.raises(KeyError, match="res3"):
        sarl()({"res2": torch.zeros(1)})
    with pytest.raises(ValueError, match="4 in_features"):
        SARL(in_channels=[8])
    with pytest.raises(ValueError, match="Did you mean 'silu'"):
        sarl(activation="sillu")


def test_the_dilated_convolution_is_computed_in_float32():
    """PyTorch's bfloat16 gradient of it is garbage: see the layer's own test."""
    assert all(isinstance(block.far[0], DilatedDepthwise) for block in sarl().fem.values())
