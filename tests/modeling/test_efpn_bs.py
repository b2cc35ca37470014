from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch.nn import functional as F

from d2tiny.layers.padding import padding_of_images
from d2tiny.modeling.necks import EFPNBS, NeckedBackbone
from d2tiny.modeling.necks.efpn_bs import FORMS, conv_of_upsampled


def pyramid(channels=16, size=(50, 38)):
    """p2..p6 of an image whose sides are no multiples of 32."""
    return {f"p{i + 2}": torch.randn(2, channels, -(-size[0] // 2**i), -(-size[1] // 2**i)) for i in range(5)}


def test_parameter_counts():
    """docs/papers/efpn_bs.md#module, with 256 channels."""

    def count(**settings):
        return sum(p.numel() for p in EFPNBS(channels=256, **settings).parameters())

    assert count(fbsm=False) == 65_792
    assert count(cem=False) == 885_260
    assert count() == 951_052
    assert count(mid_channels=256) == 1_836_556
    assert count(gate_channels=256) == 1_574_272
    # two squeezes, three depth-wise convolutions, two logits, the fusion, the expansion, CEM
    light = 2 * (256 * 64 + 64) + 3 * (9 * 64 + 64) + 2 * (64 + 1) + 10 + (64 * 256 + 256) + 65_792
    assert count(light=True) == light


def test_names_shapes_and_other_levels_stay():
    features = pyramid()
    before = {k: v.clone() for k, v in features.items()}
    result = EFPNBS(channels=16)(features)
    assert list(result) == list(features)
    for name, value in features.items():
        assert torch.equal(value, before[name])  # inputs unchanged
        assert result[name].shape == value.shape
        assert torch.equal(result[name], value) == (name != "p2")


def test_cem_adds_the_same_vector_everywhere():
    """C = P_l + ReLU(W·max(P_h) + b): spatially constant, computed here by hand."""
    neck, features = EFPNBS(channels=16, fbsm=False), pyramid()
    difference = neck(features)["p2"] - features["p2"]
    weight, bias = neck.cem["p2"].project.weight[:, :, 0, 0], neck.cem["p2"].project.bias
    vector = F.relu(features["p5"].amax((2, 3)) @ weight.T + bias)
    torch.testing.assert_close(difference, vector[:, :, None, None].expand_as(difference), atol=1e-5, rtol=0)


def test_mask_is_between_0_and_1_and_even_at_the_start():
    neck, features = EFPNBS(channels=16), pyramid()
    mask = neck.fbsm["p2"].mask(features["p5"], features["p2"])
    assert mask.shape == (2, 1, 50, 38)
    assert (mask > 0).all()
    assert (mask < 1).all()


def test_open_gate_leaves_the_refinement():
    neck, features = EFPNBS(channels=16, cem=False), pyramid()
    fbsm = neck.fbsm["p2"]
    with torch.no_grad():
        fbsm.fuse.weight.zero_()
        fbsm.fuse.bias.fill_(100.0)
    torch.testing.assert_close(neck(features)["p2"], F.relu(fbsm.refine(features["p2"])))


def test_residual_starts_as_identity_and_learns():
    """A refinement of zeros inside a ReLU would never leave zero."""
    neck, features = EFPNBS(channels=16, cem=False, residual=True), pyramid()
    assert torch.equal(neck(features)["p2"], features["p2"])
    optimizer = torch.optim.SGD(neck.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        (neck(features)["p2"] - 1).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in neck.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_what_their_table_says_and_learn(form):
    neck, features = EFPNBS(channels=16, cem=False, form=form), pyramid()
    fbsm, low = neck.fbsm["p2"], features["p2"]
    mask = fbsm.mask(features["p5"], low)
    gated = F.conv2d(low * (2 * mask if form == "doubled" else mask), fbsm.refine.weight, fbsm.refine.bias, padding=1)
    relu = gated.clamp(min=0)
    if form == "scaled":
        assert torch.equal(neck(features)["p2"], low)
        with torch.no_grad():
            fbsm.scale.fill_(0.5)
    deviation = (relu.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    expected = {
        "printed": relu,
        "scaled": low + relu / 2,
        "doubled": relu,
        "signed": gated,
        "normed": (relu - relu.mean(1, keepdim=True)) / deviation,
    }[form]
    torch.testing.assert_close(neck(features)["p2"], expected, rtol=1e-4, atol=1e-5)
    (neck(features)["p2"] - 1).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in neck.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "sclaed"}, "Did you mean 'scaled'"),
        ({"form": "signed", "residual": True}, "with no other skip"),
        ({"form": "signed", "light": True}, "with no other skip"),
        ({"form": "signed", "fbsm": False}, "with no other skip"),
    ],
)
def test_forms_that_do_not_exist(settings, message):
    with pytest.raises(ValueError, match=message):
        EFPNBS(channels=16, **settings)


@pytest.mark.parametrize("settings", [{}, {"light": True, "mid_channels": 16}, {"gate_channels": 16}])
def test_masks_begin_near_one_half(settings):
    for seed in range(20):
        torch.manual_seed(seed)
        neck, features = EFPNBS(channels=16, **settings), pyramid()
        mask = neck.fbsm["p2"].mask(features["p5"], features["p2"])[..., 1:-1, 1:-1]
        assert 0.3 < mask.mean().item() < 0.7


def test_what_lies_beside_an_image_in_the_batch_does_not_matter_to_cem():
    """A high level of padding, here with huge values, is not pooled."""
    neck, features = EFPNBS(channels=16, fbsm=False), pyramid(size=(64, 64))
    images = torch.randn(2, 3, 256, 256)
    images[0, :, 128:], images[0, :, :, 192:] = 0, 0
    padding = padding_of_images(images)
    spoilt = {k: v.clone() for k, v in features.items()}
    spoilt["p5"][0, :, 4:], spoilt["p5"][0, :, :, 6:] = 1e3, 1e3
    torch.testing.assert_close(neck(spoilt, padding)["p2"], neck(features, padding)["p2"])
    alone = {k: v[:1, :, : v.shape[2] // 2, : v.shape[3] * 3 // 4] for k, v in features.items()}
    torch.testing.assert_close(neck(features, padding)["p2"][:1, :, :32, :48], neck(alone)["p2"])


class _Maps(torch.nn.Module):
    """A backbone whose cells see nothing beside them."""

    size_divisibility = 32

    def forward(self, image):
        return {f"p{level}": F.avg_pool2d(image, 2**level) for level in (2, 5)}

    def output_shape(self):
        return {f"p{level}": ShapeSpec(channels=3, stride=2**level) for level in (2, 5)}


def test_a_tile_beside_a_larger_one_keeps_its_p2():
    """The symptom that was found in training: pooled padding changed P2 of the smaller tile."""
    backbone = NeckedBackbone(backbone=_Maps(), neck=EFPNBS(channels=3, fbsm=False))
    small, large = -1 - torch.rand(1, 3, 64, 96), -1 - torch.rand(1, 3, 128, 128)  # under 0, which is padding
    batch = torch.cat((F.pad(small, (0, 32, 0, 64)), large))
    found = backbone(batch)["p2"]
    torch.testing.assert_close(found[:1, :, :16, :24], backbone(small)["p2"])
    torch.testing.assert_close(found[1:], backbone(large)["p2"])


def test_channels_are_compared_with_the_pyramid():
    with pytest.raises(ValueError, match="channels is 16, but level 'p5' has 32"):
        EFPNBS(channels=16).output_shape({f"p{i}": ShapeSpec(channels=32, stride=2**i) for i in range(2, 7)})


def test_masks_are_kept_in_training_only():
    neck = EFPNBS(channels=16)
    assert set(neck(pyramid()) and neck.masks) == {"p2"}
    neck.eval()
    neck(pyramid())
    assert not neck.masks


def test_gradients_reach_p5_through_both_modules():
    for settings in ({"fbsm": False}, {"cem": False}, {}):
        features = {k: v.requires_grad_() for k, v in pyramid().items()}
        neck = EFPNBS(channels=16, **settings)
        neck(features)["p2"].square().sum().backward()
        assert features["p5"].grad.abs().sum() > 0
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in neck.parameters())


def test_more_pairs():
    neck, features = EFPNBS(channels=16, pairs=(("p5", "p2"), ("p5", "p3"))), pyramid()
    result = neck(features)
    assert not torch.equal(result["p3"], features["p3"])
    assert torch.equal(result["p4"], features["p4"])


def test_gate_as_wide_as_the_level():
    assert EFPNBS(channels=16, gate_channels=16)(pyramid())["p2"].shape[1] == 16


def test_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(EFPNBS(channels=16)(pyramid())["p2"]).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"cem": False, "fbsm": False},
        {"pairs": ()},
        {"pairs": (("p5", "p5"),)},
        {"pairs": (("p5", "p2"), ("p4", "p2"))},
        {"gate_channels": 3},
        {"gate_channels": 16, "light": True},
        {"mask_loss_weight": -1.0},
        {"mask_loss_weight": 1.0, "fbsm": False},
    ],
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match="EFPNBS"):
        EFPNBS(channels=16, **settings)


def test_missing_level_is_named():
    with pytest.raises(KeyError, match="no level 'p7'"):
        EFPNBS(channels=16, pairs=(("p7", "p2"),))(pyramid())


def test_light_starts_as_identity_and_learns():
    neck, features = EFPNBS(channels=16, cem=False, mid_channels=4, light=True), pyramid()
    out = neck(features)["p2"]
    assert torch.equal(out, features["p2"])
    with torch.no_grad():
        neck.fbsm["p2"].expand.weight.normal_()
    out = neck(features)["p2"]
    assert out.shape == features["p2"].shape
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in neck.parameters())


@pytest.mark.parametrize("small", [(1, 1), (1, 4), (7, 5), (13, 2)])
@pytest.mark.parametrize("large", [(1, 1), (6, 16), (50, 38)])
def test_convolution_of_an_upsampled_map(small, large):
    """Swapping the two linear maps changes neither values nor gradients."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(6, 3, 3, padding=1).double()
    results = []
    for function in (
        conv_of_upsampled,
        lambda c, x, size: c(F.interpolate(x, size=size, mode="bilinear", align_corners=False)),
    ):
        x = torch.linspace(-1, 1, 12 * small[0] * small[1]).sin().double().view(2, 6, *small).requires_grad_()
        out = function(conv, x, large)
        results.append((out, *torch.autograd.grad((out**3).sum(), (x, conv.weight, conv.bias))))
    for ours, theirs in zip(*results, strict=True):
        # The matrices are made in single precision.
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
