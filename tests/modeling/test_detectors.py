"""DetectoRS: ResNet with switchable convolutions, and the recursive pyramid (docs/papers/detectors.md)."""

from __future__ import annotations

import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from d2tiny.engine.checkpoint import TinyCheckpointer
from d2tiny.layers.padding import padding_of_images
from d2tiny.modeling.backbone import ASPP, RFP, DetectoRSResNet, TimmBackbone, detectors_resnet
from d2tiny.utils.checkpoint_files import read_checkpoint

LEVELS = ["res2", "res3", "res4", "res5"]


def resnet(depth=18, norm="BN", **settings):
    return DetectoRSResNet(depth=depth, norm=norm, freeze_at=settings.pop("freeze_at", 0), **settings)


def plain(depth=18, norm="BN"):
    return ResNet(BasicStem(norm=norm), ResNet.make_default_stages(depth, norm=norm), out_features=LEVELS)


def rfp(share=False, steps=2):
    torch.manual_seed(0)
    first = resnet(feedback_channels=16 if share else 0)
    second = None if share else resnet(prefix="rfp_", feedback_channels=16)
    return RFP(fpn=FPN(first, LEVELS, 16, top_block=LastLevelMaxPool()), second=second, steps=steps)


def test_the_given_fpn_stays_as_it_was():
    """RFP shares its layers, but the FPN still maps images, alone or in another model."""
    torch.manual_seed(0)
    fpn = FPN(resnet(), LEVELS, 16, top_block=LastLevelMaxPool()).eval()
    names, image = list(fpn.state_dict()), torch.randn(1, 3, 64, 64)
    before = fpn(image)
    model = RFP(fpn=fpn, second=resnet(prefix="rfp_", feedback_channels=16), steps=1).eval()
    assert model.fpn is not fpn and model.bottom_up is fpn.bottom_up
    assert list(fpn.state_dict()) == names
    assert not [name for name in model.fpn.state_dict() if name.startswith("bottom_up")]
    assert model.fpn.get_submodule("fpn_lateral2") is fpn.get_submodule("fpn_lateral2")
    for name, level in model(image).items():
        assert torch.equal(level, before[name]) and torch.equal(fpn(image)[name], before[name])


def one_backbone(model):
    """The weights of the first backbone alone."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith("second.")}


@pytest.mark.parametrize("depth", [18, 50])
def test_starts_as_the_plain_resnet(depth):
    torch.manual_seed(0)
    ours, theirs = resnet(depth).eval(), plain(depth).eval()
    weights = {k: v for k, v in ours.state_dict().items() if k in theirs.state_dict()}
    assert not theirs.load_state_dict(weights, strict=False).missing_keys
    image = torch.randn(1, 3, 64, 96)
    for name, expected in theirs(image).items():
        torch.testing.assert_close(ours(image)[name], expected, rtol=1e-3, atol=1e-4)
    assert ours.output_shape() == theirs.output_shape()


def test_which_stages_switch():
    kinds = {name: type(module).__name__ for name, module in resnet(50).named_modules() if name.endswith(".conv2")}
    assert {kind for name, kind in kinds.items() if name.startswith("res2")} == {"ConvAWS2d"}
    assert {kind for name, kind in kinds.items() if not name.startswith("res2")} == {"SAConv2d"}
    with pytest.raises(ValueError, match="4 stages"):
        resnet(sac=[True])


def test_frozen_stages_are_not_trained():
    trained = {n for n, p in resnet(50, "FrozenBN", freeze_at=2).named_parameters() if p.requires_grad}
    assert trained
    assert not [n for n in trained if n.startswith(("stem", "res2"))]


@pytest.mark.parametrize("prefix", ["", "rfp_"])
def test_freezing_later(prefix):
    model = resnet(prefix=prefix).freeze(2)
    frozen = {name for name, child in model.named_children() if not any(p.requires_grad for p in child.parameters())}
    assert frozen == {f"{prefix}stem", f"{prefix}res2", "feedback"}


@pytest.mark.parametrize("levels", [LEVELS[1:], LEVELS[2:]])
def test_pyramid_without_the_finest_levels(levels):
    first = resnet(out_features=levels)
    second = resnet(out_features=levels, prefix="rfp_", feedback_channels=16)
    model = RFP(fpn=FPN(first, levels, 16, top_block=LastLevelMaxPool()), second=second)
    out = model(torch.randn(2, 3, 64, 64))
    sum(o.square().sum() for o in out.values()).backward()
    assert all(p.grad is not None for p in model.second.feedback.parameters())
    assert list(second.feedback) == levels


def test_equal_backbones_give_the_fpn():
    """Feedback starts at zero and the gate at one half: both pyramids are the same, and so is their mean."""
    model = rfp().eval()
    model.load_state_dict(one_backbone(model), strict=False)  # fills the second backbone
    image = torch.randn(2, 3, 64, 96)
    once = model.fpn(model.bottom_up(image))
    for name, level in model(image).items():
        torch.testing.assert_close(level, once[name], rtol=1e-4, atol=1e-5)
    assert {n: (s.channels, s.stride) for n, s in model.output_shape().items()} == {
        f"p{i}": (16, 2**i) for i in range(2, 7)
    }


@pytest.mark.parametrize("share", [False, True])
def test_feedback_matters_from_res3_on(share):
    model = rfp(share).eval()
    later = model.bottom_up if share else model.second
    image, feedback = (
        torch.randn(1, 3, 64, 64),
        {n: torch.randn(1, 16, 64 >> i, 64 >> i) for i, n in enumerate(LEVELS, 2)},
    )
    before = later(image, feedback)
    for conv in later.feedback.values():
        torch.nn.init.normal_(conv.weight, std=0.1)
    after = later(image, feedback)
    assert torch.equal(before["res2"], after["res2"])
    for name in LEVELS[1:]:
        assert not torch.equal(before[name], after[name])
    assert set(later.feedback) == set(LEVELS[1:])


def test_gradients_reach_both_backbones_and_the_feedback():
    model = rfp()
    for conv in model.second.feedback.values():
        torch.nn.init.normal_(conv.weight, std=0.1)
    sum(level.square().mean() for level in model(torch.randn(2, 3, 64, 64)).values()).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    # at the start the switch is 1, so nothing comes from the larger dilation yet
    assert not [n for n in missing if not n.endswith("weight_diff") and "offset_large" not in n]


def test_evaluation_is_deterministic_and_steps_count():
    model = rfp(steps=3).eval()
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(model(image)["p2"], model(image)["p2"])
    model.steps = 1
    once = model.fpn(model.bottom_up(image))
    assert torch.equal(model(image)["p3"], once["p3"])


def test_aspp_of_an_image_beside_a_larger_one():
    """The image's mean is exact; 3×3 convolutions with dilation 6 see 6 cells beyond the border."""
    torch.manual_seed(0)
    aspp, x = ASPP(16), torch.randn(2, 16, 24, 30)
    padding = torch.zeros(2, 1, 96, 120, dtype=torch.bool)
    padding[0, :, 64:], padding[0, :, :, 80:] = True, True
    x[0, :, 16:], x[0, :, :, 20:] = 1e3, 1e3
    beside, alone = aspp(x, padding), aspp(x[:1, :, :16, :20])
    torch.testing.assert_close(beside[:1, :, :10, :14], alone[..., :10, :14])
    torch.testing.assert_close(beside[:1, 12:, :16, :20], alone[:, 12:])
    torch.testing.assert_close(beside[1:], aspp(x[1:]))
    assert not torch.allclose(aspp(x)[:1, 12:, :16, :20], alone[:, 12:])


def test_the_resnet_of_an_image_beside_a_larger_one():
    """What is left of the neighbour comes through convolutions at the border, not through the contexts of SAC."""
    torch.manual_seed(0)
    model, images = resnet().eval(), torch.randn(2, 3, 256, 256)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "context" in name:
                parameter.normal_(std=0.02)
        images[0, :, 128:], images[0, :, :, 128:] = 0, 0
        beside, alone = model(images), model(images[:1, :, :128, :128])
        images[0, :, -1, -1] = 1e-6  # one dark point in the corner, and nothing counts as padding
        unmasked = model(images)
    for name, cells in (("res3", 4), ("res4", 2)):
        corner = (slice(1), slice(None), slice(cells), slice(cells))
        error, before = (float((maps[name][corner] - alone[name][corner]).abs().mean()) for maps in (beside, unmasked))
        assert error < before / 3, (name, error, before)


def test_the_pyramid_tells_aspp_where_the_padding_is(monkeypatch):
    model, images, seen = rfp().eval(), torch.randn(2, 3, 64, 64), []
    forward = model.aspp.forward
    monkeypatch.setattr(model.aspp, "forward", lambda x, padding: seen.append(padding) or forward(x, padding))
    model(images)
    assert seen == [None] * 3
    images[0, :, 32:] = 0
    model(images)
    assert all(torch.equal(padding, padding_of_images(images)) for padding in seen[3:]) and len(seen) == 6


@pytest.mark.parametrize("depth", [18, 50])
def test_blocks_with_padding_are_those_of_detectron2(depth):
    """The same numbers bit for bit where the padding is empty."""
    torch.manual_seed(0)
    model, image = resnet(depth, sac=[False] * 4).eval(), torch.randn(2, 3, 64, 64)
    plainly = model(image)
    image[0, :, 32:] = 0
    for index, block in enumerate(model.stages[0]):
        x = torch.randn(2, block.in_channels, 16, 16)
        ours = detectors_resnet._apply_block(block, x, torch.zeros(2, 1, 64, 64, dtype=torch.bool), None)
        assert torch.equal(ours, block(x)), index
    assert set(plainly) == set(model(image))


def timm_rfp(name="resnet10t", **settings):
    torch.manual_seed(0)
    first, second = TimmBackbone(name), TimmBackbone(name, feedback_channels=16)
    return RFP(fpn=FPN(first, LEVELS, 16, top_block=LastLevelMaxPool()), second=second, **settings)


def test_recursive_pyramid_on_a_backbone_of_timm():
    """It starts as the FPN, from the same ImageNet weights in both backbones; then all of it learns."""
    model = timm_rfp().eval()
    model.load_state_dict(one_backbone(model), strict=False)  # fills the second backbone
    image = torch.randn(2, 3, 64, 96)
    once = model.fpn(model.bottom_up(image))
    for name, level in model(image).items():
        torch.testing.assert_close(level, once[name], rtol=1e-4, atol=1e-5)
    for conv in model.second.feedback.values():
        torch.nn.init.normal_(conv.weight, std=0.1)
    sum(level.square().mean() for level in model(image).values()).backward()
    # resnet10t starts with blocks that are the identity, so that their inner convolutions have gradients of zero.
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(bool(p.grad.any()) for part in (model.aspp, model.second.feedback) for p in part.parameters())
    assert set(model.second.feedback) == set(LEVELS[1:])


def test_packaged_weights_fill_both_backbones_of_timm():
    model = torch.nn.ModuleDict({"backbone": timm_rfp("tf_efficientnet_lite0")})
    TinyCheckpointer(model).load("timm://tf_efficientnet_lite0")
    rfp_model = model["backbone"]
    expected = read_checkpoint("timm://tf_efficientnet_lite0")["model"]
    for backbone in (rfp_model.bottom_up, rfp_model.second):
        assert torch.equal(
            backbone.body.blocks[3][0].conv_pw.weight,
            next(value for key, value in expected.items() if key.endswith("blocks.3.0.conv_pw.weight")),
        )


def msra_names(state):
    """Detectron's old names of a plain ResNet, as its pickles have them."""

    def old(name):
        name = name.replace("stem.conv1.norm.", "res_conv1_bn_").replace("stem.conv1.", "conv1_")
        for new, branch in (
            ("shortcut", "branch1"),
            ("conv1", "branch2a"),
            ("conv2", "branch2b"),
            ("conv3", "branch2c"),
        ):
            name = name.replace(f".{new}.norm.", f"_{branch}_bn_").replace(f".{new}.", f"_{branch}_")
        return name.replace(".", "_").replace("_weight", "_w" if "bn" not in name else "_s").replace("_bias", "_b")

    return {old(k): v.numpy() for k, v in state.items() if "running" not in k and "num_batches" not in k}


@pytest.mark.parametrize("style", ["torchvision", "msra"])
def test_imagenet_weights_fill_both_backbones(tmp_path, style):
    """Made-up weights in the formats of Detectron2's two ResNet-50 pickles, through its own checkpointer."""
    torch.manual_seed(1)
    source = plain(50, "FrozenBN")
    state = {k: torch.rand_like(v) if "norm" in k else v for k, v in source.state_dict().items()}
    path = tmp_path / "R-50.pkl"
    if style == "msra":
        content = msra_names(state)
    else:
        content = {
            "model": {k: v.numpy() for k, v in state.items()},
            "__author__": "torchvision",
            "matching_heuristics": True,
        }
    path.write_bytes(pickle.dumps(content))
    fpn = FPN(resnet(50, "FrozenBN"), LEVELS, 16)
    model = torch.nn.ModuleDict(
        {"backbone": RFP(fpn=fpn, second=resnet(50, "FrozenBN", prefix="rfp_", feedback_channels=16))}
    )
    DetectionCheckpointer(model).load(str(path))
    rfp_model = model["backbone"]
    for backbone, prefix in ((rfp_model.bottom_up, ""), (rfp_model.second, "rfp_")):
        for layer in ("stem.conv1", "res2.0.conv1", "res3.0.conv2", "res4.5.conv3", "res5.0.shortcut"):
            conv = backbone.get_submodule(prefix + layer)
            assert float((conv.standardized_weight().detach() - state[f"{layer}.weight"]).abs().max()) < 1e-5, (
                prefix,
                layer,
            )
            assert torch.equal(conv.norm.bias, state[f"{layer}.norm.bias"])


def test_a_resumed_checkpoint_keeps_the_second_backbone():
    model, other = rfp(), rfp()
    with torch.no_grad():
        for parameter in model.second.parameters():
            parameter.add_(1)
    assert not any(other.load_state_dict(model.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_parts_that_do_not_fit_are_refused():
    def fpn(backbone):
        return FPN(backbone, LEVELS, 16)

    with pytest.raises(ValueError, match="must be a DetectoRSResNet"):
        RFP(fpn=fpn(plain()), second=resnet(prefix="rfp_", feedback_channels=16))
    with pytest.raises(ValueError, match="got DetectoRSResNet and TimmBackbone"):
        RFP(fpn=fpn(resnet()), second=TimmBackbone("resnet10t", feedback_channels=16))
    with pytest.raises(ValueError, match="feedback_channels=16"):
        RFP(fpn=fpn(resnet()))
    with pytest.raises(ValueError, match="a prefix"):
        RFP(fpn=fpn(resnet()), second=resnet(feedback_channels=16))
    with pytest.raises(ValueError, match="multiple of 4"):
        ASPP(6)
