"""MDCA, PFDH and ARB of RS-TinyNet, and the PAFPN before them."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec

from d2tiny.modeling.necks import ARB, ASFF, MDCA, PAFPN, PFDH, MDCAttention, NeckedBackbone
from d2tiny.modeling.necks.arb import CBFuse, couple, uncouple
from d2tiny.modeling.necks.pfdh import ResidualBlock


def count(module):
    return sum(p.numel() for p in module.parameters())


def zeroed(module):
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    return module


@pytest.mark.parametrize("mode", ["grid", "literal"])
def test_mdca_with_zero_weights_is_a_quarter(mode):
    """All weights ½: ½·½·X."""
    x = torch.randn(2, 16, 7, 9)
    layer = zeroed(MDCAttention(16, local_mode=mode))
    torch.testing.assert_close(layer(x), x / 4)
    torch.testing.assert_close(zeroed(MDCAttention(16, local_mode=mode, combine="add"))(x), x)
    torch.testing.assert_close(zeroed(MDCAttention(16, local_mode=mode, residual=True))(x), 1.25 * x)


@pytest.mark.parametrize(("channels", "kernel"), [(256, 5), (512, 5), (64, 3), (16, 3)])
def test_mdca_kernels_and_size(channels, kernel):
    """⌊(log₂ C + 1)/2⌋, made odd upwards: 256 → ⌊4.5⌋ = 4 → 5; 64 → ⌊3.5⌋ = 3; 16 → ⌊2.5⌋ = 2 → 3."""
    layer = MDCAttention(channels)
    assert layer.local.kernel_size == (kernel,)
    assert count(layer) == 2 * kernel + 18


def test_mdca_regions_are_apart_in_grid_mode_and_one_in_literal_mode():
    torch.manual_seed(0)
    grid, literal = MDCAttention(32, local_size=2), MDCAttention(32, local_size=2, local_mode="literal")
    x = torch.randn(1, 32, 8, 8)
    y = x.clone()
    y[..., :4, :4] += 1  # one region
    before, after = grid.channel_attention(x), grid.channel_attention(y)
    difference = (1 - grid.local_weight) * (
        torch.sigmoid(grid.whole(y.mean((2, 3))[:, None])) - torch.sigmoid(grid.whole(x.mean((2, 3))[:, None]))
    ).view(1, 32, 1, 1)
    moved = after[..., 4:, :] - before[..., 4:, :]
    torch.testing.assert_close(moved, difference.expand(1, 32, 4, 8), atol=1e-6, rtol=1e-4)
    assert (after[..., :4, :4] - before[..., :4, :4] - difference).abs().max() > 1e-4
    assert literal.channel_attention(x).shape == (1, 32, 1, 1)


@pytest.mark.parametrize("mode", ["grid", "literal"])
def test_mdca_of_an_image_beside_a_larger_one(mode):
    """Its regions divide the image alone, and the padding gets no attention; a 3×3 convolution sees one cell more."""
    torch.manual_seed(0)
    neck, x = MDCA(in_channels=[32], in_features=["p3"], local_mode=mode), torch.randn(2, 32, 16, 24)
    padding = torch.zeros(2, 1, 128, 192, dtype=torch.bool)
    padding[0, :, 88:], padding[0, :, :, 100:] = True, True
    x[0, :, 11:], x[0, :, :, 13:] = 1e3, 1e3
    beside, alone = neck({"p3": x}, padding)["p3"], neck({"p3": x[:1, :, :11, :13]})["p3"]
    torch.testing.assert_close(beside[:1, :, :10, :12], alone[..., :10, :12])
    assert not beside[0, :, 11:].any() and not beside[0, :, :, 13:].any()
    torch.testing.assert_close(beside[1:], neck({"p3": x[1:]})["p3"])
    assert not torch.allclose(neck({"p3": x})["p3"][:1, :, :10, :12], alone[..., :10, :12])


def test_mdca_in_a_detector_is_told_of_the_padding():
    assert NeckedBackbone(backbone=_Stages(), neck=MDCA(in_channels=[3], in_features=["p3"]))._pools


class _Stages(torch.nn.Module):
    size_divisibility = 0

    def output_shape(self):
        return {"p3": ShapeSpec(channels=3, stride=1)}


def test_mdca_of_a_constant_map_is_constant_inside():
    y = MDCAttention(16)(torch.full((1, 16, 9, 9), 2.0))
    inner = y[..., 1:-1, 1:-1]
    torch.testing.assert_close(inner, inner[..., :1, :1].expand_as(inner))


def test_mdca_weights_are_between_zero_and_one_and_maps_may_be_small():
    layer = MDCAttention(16)
    for size in ((1, 1), (3, 2), (7, 9)):
        x = torch.randn(2, 16, *size)
        for weights in (layer.channel_attention(x), layer.spatial_attention(x)):
            assert weights.min() > 0
            assert weights.max() < 1
        assert layer(x).shape == x.shape


def test_asff_weights_and_mean_by_hand():
    """docs/papers/rs_tinynet.md#pfdh: logits 1, 2, 3 on 10, 20, 30 give weights .0900, .2447, .6652 and 25.7521038."""
    layer = zeroed(ASFF(4, 3)).eval()
    inputs = [torch.full((1, 4, 5, 6), v) for v in (10.0, 20.0, 30.0)]
    torch.testing.assert_close(layer.weighted_mean(inputs), torch.full((1, 4, 5, 6), 20.0))
    with torch.no_grad():
        layer.logits.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(layer.weighted_mean(inputs), torch.full((1, 4, 5, 6), 25.7521038))
    layer = ASFF(4, 3)
    weights = layer.weights([torch.randn(2, 4, 5, 6) for _ in range(3)])
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 5, 6))
    same = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(layer.weighted_mean([same] * 3), same)


@pytest.mark.parametrize("size", [64, 72])  # 72: P3 has 9 cells, P4 5, P5 3
def test_pfdh_shapes_and_order_of_fusion(size):
    neck = PFDH(in_channels=[16, 32, 32], out_channels=24).eval()
    sizes = [-(-size // s) for s in (8, 16, 32)]
    maps = {f"p{i + 3}": torch.randn(1, c, s, s) for i, (c, s) in enumerate(zip((16, 32, 32), sizes, strict=True))}
    shapes = {n: ShapeSpec(channels=m.shape[1], stride=8 << i) for i, (n, m) in enumerate(maps.items())}
    out = neck(maps)
    assert {n: tuple(m.shape) for n, m in out.items()} == {n: (1, 24, *m.shape[2:]) for n, m in maps.items()}
    assert {n: s.channels for n, s in neck.output_shape(shapes).items()} == dict.fromkeys(maps, 24)
    # the first stage does not see the coarsest level
    levels = [conv(maps[n]) for n, conv in zip(maps, neck.reduce, strict=True)]
    assert len(neck.stages[0].fuse) == 2
    assert len(neck.stages[1].fuse) == 3
    assert [m.shape for m in neck.stages[1](levels)] == [m.shape for m in levels]


FORMS = [
    {"skip": "none"},
    {"skip": "none", "block": "residual", "repeats": 4},
    {"skip": "stages"},
    {"skip": "around"},
    {"skip": "around", "out_channels": None, "min_width": 12},
]


def pfdh(**changes):
    return PFDH(**({"in_channels": [16, 32, 32], "out_channels": 16} | changes))


def pyramid():
    return {f"p{i + 3}": torch.randn(2, c, s, s) for i, (c, s) in enumerate(((16, 12), (32, 6), (32, 3)))}


def test_pfdh_with_a_skip_round_it_starts_as_if_there_were_none():
    torch.manual_seed(0)
    maps = pyramid()
    for name, out in pfdh(skip="around", out_channels=None)(maps).items():
        assert torch.equal(out, maps[name])
    neck = pfdh(skip="around")  # the coarser levels have other channels than the outputs
    out = neck(maps)
    assert torch.equal(out["p3"], maps["p3"])
    torch.testing.assert_close(out["p4"], neck.match[1](maps["p4"]))
    assert pfdh(skip="none").match is pfdh(skip="stages").match is None


@pytest.mark.parametrize("changes", FORMS, ids=str)
def test_every_parameter_of_pfdh_learns_after_a_step(changes):
    """The projection of the skip is zero at first, so that only it has a gradient; a step later all have."""
    torch.manual_seed(0)
    neck, maps = pfdh(**changes), pyramid()
    target = {name: torch.randn_like(out) for name, out in neck(maps).items()}
    optimizer = torch.optim.SGD(neck.parameters(), lr=0.1)
    for step in range(2):
        loss = sum((out - target[name]).square().mean() for name, out in neck(maps).items())
        optimizer.zero_grad()
        loss.backward()
        still = {name.split(".")[0] for name, p in neck.named_parameters() if not p.grad.abs().max() > 0}
        assert still == ({"reduce", "stages"} if step == 0 and changes["skip"] == "around" else set()), step
        optimizer.step()


def test_pfdh_shapes_of_its_forms():
    for changes in FORMS:
        neck, maps = pfdh(**changes), pyramid()
        wanted = [16, 32, 32] if "out_channels" in changes else [16] * 3
        shapes = {n: ShapeSpec(channels=m.shape[1], stride=8 << i) for i, (n, m) in enumerate(maps.items())}
        assert [s.channels for s in neck.output_shape(shapes).values()] == wanted
        assert [tuple(m.shape) for m in neck(maps).values()] == [
            (2, c, s, s) for c, s in zip(wanted, (12, 6, 3), strict=True)
        ]
    assert [block.norm.num_features for block, _ in pfdh(min_width=12).reduce] == [12, 12, 12]
    assert [block.norm.num_features for block, _ in pfdh(min_width=6).reduce] == [6, 8, 8]


def test_parameters_of_the_forms_of_pfdh():
    """YOLO11m's levels, 256, 512, 512 to 256; a residual block has two 3×3 convolutions and norms: 18c² + 4c."""
    host = {"in_channels": [256, 512, 512], "out_channels": 256}
    literal = count(PFDH(**host, skip="none"))
    assert literal == 1_712_501  # and the head is smaller behind it: + 1,280,885 in all
    assert count(PFDH(**host, skip="stages")) == literal
    assert count(ResidualBlock(64)) == 18 * 64**2 + 4 * 64
    assert count(PFDH(**host, skip="none", block="residual", repeats=4)) == literal + 4_807_541 - 1_280_885
    # without norms, with biases, and two 1×1 convolutions with norms from 512 to 256 channels
    assert count(PFDH(**host, skip="around")) == literal - 3 * 256 + 2 * (512 * 256 + 2 * 256)


def test_coupling_by_hand_and_back():
    """F(x) = 2x, G(x) = x + 1: (1, 3) → (1 + 6, 3 + 8) = (7, 11)."""
    f, g = (lambda x: 2 * x), (lambda x: x + 1)
    y = couple(torch.tensor(1.0), torch.tensor(3.0), f, g)
    assert [float(v) for v in y] == [7, 11]
    assert [float(v) for v in uncouple(*y, f, g)] == [1, 3]
    x = torch.randn(2, 4, dtype=torch.float64)
    torch.testing.assert_close(
        torch.stack(uncouple(*couple(x[0], x[1], torch.sin, torch.cos), torch.sin, torch.cos)), x
    )


def test_fuse_adds_nearest():
    fused = CBFuse()(torch.ones(1, 1, 2, 2), [torch.tensor([[[[5.0]]]]), torch.arange(16.0).view(1, 1, 4, 4)])
    assert fused[0, 0].tolist() == [[1 + 5 + 0, 1 + 5 + 2], [1 + 5 + 8, 1 + 5 + 10]]


def test_arb_parameters_and_what_feeds_what():
    """9,886,272 for YOLO11m (docs/papers/rs_tinynet.md#arb); a4 and a5 do not look at c3 but through a3."""
    assert count(ARB()) == 9_886_272
    branch = ARB(in_channels=[16, 16, 32], stem_channels=[8, 8, 16]).eval()
    features = {n: torch.randn(1, c, s, s) for n, c, s in (("c3", 16, 8), ("c4", 16, 4), ("c5", 32, 2))}
    out = branch(torch.randn(1, 3, 64, 64), features)
    assert {n: tuple(m.shape[1:]) for n, m in out.items()} == {"a3": (16, 8, 8), "a4": (16, 4, 4), "a5": (32, 2, 2)}


def test_pafpn_keeps_the_backbones_levels_and_refuses_others():
    neck = PAFPN(in_channels=[8, 16, 32], out_channels=[8, 16, 32])
    shapes = {f"c{i}": ShapeSpec(channels=4 << (i - 2), stride=1 << i) for i in (2, 3, 4, 5)}
    assert {n: (s.channels, s.stride) for n, s in neck.output_shape(shapes).items() if n[0] == "p"} == {
        "p3": (8, 8),
        "p4": (16, 16),
        "p5": (32, 32),
    }
    maps = {f"c{i}": torch.randn(1, 4 << (i - 2), 64 >> i, 96 >> i) for i in (2, 3, 4, 5)}
    out = neck(maps)
    assert out["c2"] is maps["c2"]
    assert [tuple(out[f"p{i}"].shape) for i in (3, 4, 5)] == [(1, 8, 8, 12), (1, 16, 4, 6), (1, 32, 2, 3)]
    with pytest.raises(ValueError, match="no level 'c5'"):
        neck.output_shape({k: v for k, v in shapes.items() if k != "c5"})
    with pytest.raises(ValueError, match="in_channels says 8 for level 'c3', the backbone 4"):
        neck.output_shape(shapes | {"c3": ShapeSpec(channels=4, stride=8)})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PAFPN(in_channels=[8, 16], out_channels=[8, 16]), "3 levels"),
        (lambda: PAFPN(in_channels=[8] * 3, out_channels=[8] * 3, block="c4"), "'csp' or 'c3k2'"),
        (lambda: MDCA(in_channels=[8], in_features=["p3", "p4"]), "2 in_features"),
        (lambda: MDCA(in_channels=[8], in_features=["p3"], local_mode="gird"), "Did you mean 'grid'"),
        (lambda: MDCAttention(8, local_weight=1.5), "local_weight"),
        (lambda: PFDH(in_channels=[8], out_channels=8, in_features=["p3"]), "two or more"),
        (lambda: PFDH(in_channels=[8, 8], in_features=["p3", "p4"], skip="arround"), "Did you mean 'around'"),
        (lambda: PFDH(in_channels=[8, 8], in_features=["p3", "p4"], block="basic"), "block is 'basic'"),
        (lambda: ARB(in_channels=[8, 8]), "three in_channels"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_necks_refuse_levels_that_are_not_there():
    shapes = {"p3": ShapeSpec(channels=8, stride=8)}
    with pytest.raises(ValueError, match="MDCA: no level 'p4'"):
        MDCA(in_channels=[8, 8], in_features=["p3", "p4"]).output_shape(shapes)
    with pytest.raises(ValueError, match="PFDH: in_channels says 4"):
        PFDH(in_channels=[4, 4], out_channels=4, in_features=["p3", "p4"]).output_shape(shapes)
