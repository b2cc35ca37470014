"""Models of timm as backbones: maps, freezing, weights, and the detectors on them."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from omegaconf import OmegaConf
from torch import nn

from d2tiny.config import load_config
from d2tiny.config.shapes import backbone_shape
from d2tiny.engine.checkpoint import TinyCheckpointer
from d2tiny.engine.ema import ModelEMA
from d2tiny.engine.optim import parameter_groups
from d2tiny.modeling.backbone import TimmBackbone
from d2tiny.modeling.backbone.timm_swin import pad_before_shift
from d2tiny.modeling.necks import PAFPN
from d2tiny.utils.checkpoint_files import read_checkpoint
from d2tiny.utils.errors import CheckpointError, ConfigError
from d2tiny.utils.weights import adapt_state
from tests.helpers.models import BATCHES, config, narrow, predict, shared, step

LITE0, SWIN = "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224"
RCNN, DENSE, YOLO, PARTS = (shared(name) for name in ("models/rcnn", "models/dense", "models/yolo", "parts/rcnn"))
SMALL = "resnet10t"
IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        (LITE0, [24, 40, 112, 320]),
        ("resnet18", [64, 128, 256, 512]),
        ("convnext_atto", [40, 80, 160, 320]),
        (SWIN, [96, 192, 384, 768]),
        ("hrnet_w18_small", [128, 256, 512, 1024]),  # its branches are parallel
        ("twins_svt_small", [64, 128, 256, 512]),  # its parts are not listed in the order of their use
    ],
)
def test_maps_of_any_image(name, channels):
    model = TimmBackbone(name).eval()
    shapes = model.output_shape()
    assert [(key, s.channels, s.stride) for key, s in shapes.items()] == list(
        zip(("res2", "res3", "res4", "res5"), channels, (4, 8, 16, 32), strict=True)
    )
    assert model.size_divisibility == 32
    for height, width in ((320, 256), (32, 224)):
        with torch.no_grad():
            maps = model(torch.randn(1, 3, height, width))
        for key, s in shapes.items():
            assert maps[key].shape == (1, s.channels, height // s.stride, width // s.stride)


@pytest.mark.slow
def test_maps_are_those_of_timm():
    """Channels of Swin, which is a model of channels last, come first; its last blocks shift their windows.

    At 224 px, where the windows fill all maps: at other sizes timm lets opposite borders attend to each other.
    """
    ours = TimmBackbone(SWIN).eval()
    settings = {"strict_img_size": False, "always_partition": True}
    theirs = timm.create_model(SWIN, features_only=True, **settings).eval()
    theirs.load_state_dict(ours.body.state_dict())
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        for a, b in zip(ours(image).values(), theirs(image), strict=True):
            torch.testing.assert_close(a, b.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)  # linear layers by oneDNN
    assert [block.shift_size for block in ours.body.layers_3.blocks] == [(0, 0), (3, 3)]


def test_swin_of_detectron2_has_a_place_and_computes_the_same():
    """Windows of 7 on maps of 24x40, 12x20, 6x10 and 3x5: padded, shifted, merged; norms of the maps too."""
    module = pytest.importorskip("detectron2.modeling.backbone.swin")  # not in the release of 2021
    sizes = {"embed_dim": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 7}
    theirs = module.SwinTransformer(out_indices=(1, 2, 3), **sizes).eval().double()
    torch.manual_seed(0)
    for value in theirs.parameters():
        nn.init.normal_(value, std=0.3)
    ours = TimmBackbone(SWIN, out_features=["res3", "res4", "res5"], out_norm=True, **sizes).eval().double()
    state = {f"bottom_up.{name}": value for name, value in theirs.state_dict().items()}
    model = nn.ModuleDict({"bottom_up": ours})
    adapt_state(model, state)
    model.load_state_dict(state, strict=True)
    image = torch.randn(2, 3, 96, 160, dtype=torch.float64)
    with torch.no_grad():
        maps, expected = ours(image), theirs(image)
    for stage, name in (("res3", "p1"), ("res4", "p2"), ("res5", "p3")):
        torch.testing.assert_close(maps[stage], expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [SWIN, "swinv2_tiny_window8_256", "swinv2_cr_tiny_ns_224"])
def test_opposite_borders_do_not_attend_to_each_other(name):
    """18 rows are no multiple of the windows of 7 and 8: the first row of an image reaches 12 of them at most."""
    torch.manual_seed(0)
    model = TimmBackbone(name, out_features=["res4"], depths=(1, 1, 2, 1)).eval().double()
    for parameter in model.parameters():  # branches of the second version start at zero
        nn.init.normal_(parameter, std=0.1)
    image = torch.randn(1, 3, 288, 32, dtype=torch.float64)
    changed = image.clone()
    changed[:, :, 0] += 1
    with torch.no_grad():
        before, after = model(image)["res4"], copy.deepcopy(model)(changed)["res4"]
    reached = (before - after).abs().amax(dim=(0, 1, 3)) > 1e-12
    assert reached[:4].all()
    assert not reached[12:].any()


def test_blocks_of_another_timm_are_refused():
    with pytest.raises(ConfigError, match=r"blocks of this Swin.*tested with timm"):
        pad_before_shift(nn.Sequential(nn.Linear(1, 1)))


@pytest.mark.parametrize("name", ["convnext_atto", SWIN])
def test_norms_of_the_maps(name):
    """Over channels, at every place; trained unless everything is frozen, and without weight decay."""
    model = TimmBackbone(name, out_features=["res2", "res5"], freeze_at=4, out_norm=True)
    plain = TimmBackbone(name, out_features=["res2", "res5"])
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if "out_norms" not in key})
    image = torch.randn(2, 3, 64, 96)
    for stage, x in model.eval()(image).items():
        before = plain.eval()(image)[stage].detach()
        expected = (before - before.mean(dim=1, keepdim=True)) / before.var(dim=1, keepdim=True, correction=0).sqrt()
        torch.testing.assert_close(x.detach(), expected, rtol=1e-3, atol=1e-3)
    assert all(p.requires_grad for p in model.out_norms.parameters())
    frozen = TimmBackbone(name, freeze_at=5, out_norm=True)
    assert not any(p.requires_grad for p in frozen.parameters())
    groups = parameter_groups(model=nn.Sequential(model), weight_decay_norm=0.0)
    own = {id(p) for p in model.out_norms.parameters()}
    assert {g["weight_decay"] for g in groups for p in g["params"] if id(p) in own} == {0.0}


@pytest.mark.parametrize("name", [LITE0, "convnext_atto", SMALL])
@pytest.mark.parametrize("freeze_at", range(6))
def test_frozen_stages(name, freeze_at):
    """Stage k is what map k adds to the parameters of the maps before it, and the stem what precedes stage 2."""
    torch.manual_seed(0)
    model = TimmBackbone(name, freeze_at=freeze_at, norm="BN", drop_path_rate=0.5)
    maps = model.train()(torch.randn(2, 3, 64, 64))
    for stage, x in enumerate(maps.values(), start=2):
        assert x.requires_grad == (stage > freeze_at), "frozen stages run without a graph"
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    free = TimmBackbone(name, norm="BN")
    for stage, x in enumerate(free(torch.randn(2, 3, 64, 64)).values(), start=2):
        grads = torch.autograd.grad(x.sum(), free.parameters(), allow_unused=True, retain_graph=True)
        needed = {key for (key, _), grad in zip(free.named_parameters(), grads, strict=True) if grad is not None}
        left = {key for key in needed if key in dict(model.named_parameters())} - frozen
        assert bool(left) == (stage > freeze_at)
    stems = {LITE0: "conv_stem.weight", "convnext_atto": "stem_0.weight", SMALL: "conv1.0.weight"}
    assert (f"body.{stems[name]}" in frozen) == (freeze_at >= 1)
    if freeze_at == 1:
        assert all("stem" in key or "conv1.0" in key or "blocks.0." in key or ".conv1." in key for key in frozen)
        assert any(x.requires_grad for x in maps.values())


@pytest.mark.parametrize(("name", "share"), [("resnet18", 0.9), ("convnext_atto", 0.4)])
def test_checkpointing_keeps_less_and_gives_the_same(name, share):
    """Gradients to the last bit, drop paths included; fewer bytes stay for the backward pass."""
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = TimmBackbone(name, drop_path_rate=0.3, checkpointing=checkpointing).train()
        kept = {}
        torch.manual_seed(1)
        image = torch.randn(2, 3, 64, 64)

        def keep(x, kept=kept):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            maps = model(image)
        weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
        sum(x.square().mean() for x in maps.values()).backward()
        size = sum(n for place, n in kept.items() if place not in weights)
        results.append((size, [p.grad for p in model.parameters() if p.requires_grad]))
    (plain, expected), (less, found) = results
    assert less < share * plain
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("settings", "words"), [({"feedback_channels": 8}, "feedback_channels"), ({"norm": "BN"}, "norm=BN")]
)
def test_checkpointing_that_would_be_wrong_is_refused(settings, words):
    with pytest.raises(ConfigError, match=f"checkpointing=true: it does not go with {words}"):
        TimmBackbone(SMALL, checkpointing=True, **settings)


def test_batch_norms_of_frozen_stages_are_frozen():
    """Statistics stay, and drop paths are off: the same image twice gives the same maps up to the last frozen one."""
    model = TimmBackbone(LITE0, freeze_at=3, norm="BN", drop_path_rate=0.5).train()
    before = copy.deepcopy(model.state_dict())
    image = torch.randn(2, 3, 64, 64)
    first, second = model(image), model(image)
    assert [torch.equal(first[key], second[key]) for key in first] == [True, True, False, False]
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert any("running_mean" in key for key in moved)
    assert all(int(key.split(".")[2]) >= 3 for key in moved), "blocks 0 to 2 are the stem, res2 and res3"


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_norms(norm):
    model = TimmBackbone(LITE0, norm=norm).train()
    count = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert count == (0 if norm == "FrozenBN" else 48)
    before = model.body.bn1.running_mean.clone()
    model(torch.randn(2, 3, 64, 64))
    assert torch.equal(model.body.bn1.running_mean, before) == (norm == "FrozenBN")
    assert ("body.bn1.weight" in dict(model.named_parameters())) == (norm == "BN")


def test_out_features_decide_what_is_built_and_trained():
    """Names in any order; all parameters that train get a gradient, which training on several GPUs needs."""
    for name in (LITE0, SMALL, "hrnet_w18_small"):
        model = TimmBackbone(name, out_features=["res4", "res3"], norm="BN")
        assert list(model.output_shape()) == ["res3", "res4"]
        assert model.size_divisibility == 16
        maps = model(torch.randn(1, 3, 64, 96))
        assert [tuple(x.shape[2:]) for x in maps.values()] == [(8, 12), (4, 6)]
        sum(x.sum() for x in maps.values()).backward()
        assert not [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not any("layer4" in key for key in TimmBackbone(SMALL, out_features=["res4"]).state_dict())


def test_drop_path():
    model = TimmBackbone("convnext_atto", drop_path_rate=0.5).train()
    image = torch.randn(1, 3, 64, 64)
    assert not torch.equal(model(image)["res5"], model(image)["res5"])
    assert torch.equal(model.eval()(image)["res5"], model(image)["res5"])


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("resnet51", {}, "timm has no 'resnet51'. Did you mean 'resnet5"),
        ("resnet50.a1_in2k", {}, "timm has no 'resnet50.a1_in2k'. Did you mean 'resnet50.a"),
        ("vit_tiny_patch16_224", {}, r"of strides \[16, 16, 16\]; a pyramid needs 4, 8, 16 and 32. Plain vision"),
        ("inception_v3", {}, r"its map of stride 2 has \(45, 77\) places for an image of 96x160"),
        ("coatnet_0_rw_224", {}, "does not take images of every size, such as 96x160"),
        (SMALL, {"depth": 3}, "timm cannot build it as a backbone: .*'depth'"),
        (SWIN, {"depth": 3}, "timm cannot build it as a backbone: .*'depth'"),
        ("hrnet_w18_small", {"freeze_at": 1}, "stem of hrnet_w18_small cannot be told from .*; take 0 or 2"),
        (SMALL, {"freeze_at": 6}, "freeze_at must be 0 to 5, got 6"),
        (SMALL, {"norm": "FrozenBn"}, "norm: unknown 'FrozenBn'. Did you mean 'FrozenBN'"),
        (SMALL, {"out_features": ["res1"]}, "no stage 'res1'. Did you mean 'res"),
        (SMALL, {"out_features": []}, "out_features is empty"),
        (SMALL, {"drop_path_rate": 1.0}, r"drop_path_rate must be in \[0, 1\), got 1.0"),
        (SMALL, {"pretrained": True}, "pretrained cannot be set: .*checkpoint timm://NAME"),
    ],
)
def test_what_cannot_be_built_is_refused(name, settings, words):
    with pytest.raises(ConfigError, match=words):
        TimmBackbone(name, **settings)


@pytest.mark.parametrize("name", [SMALL, LITE0, "convnext_atto", SWIN])
def test_feedback_is_added_inside_the_stages(name):
    """It starts at zero; feedback of res4 changes res4 and res5, in place of what is below."""
    model, image = TimmBackbone(name, feedback_channels=6).eval(), torch.randn(1, 3, 64, 96)
    maps = {f"res{i}": torch.randn(1, 6, 256 >> (i + 2), 384 >> (i + 2)) for i in range(2, 6)}
    maps = {key: value[..., : 64 >> i, : 96 >> i] for i, (key, value) in enumerate(maps.items(), 2)}
    with torch.no_grad():
        before = model(image)
        assert all(torch.equal(value, before[key]) for key, value in model(image, maps).items())
        for conv in model.feedback.values():
            nn.init.normal_(conv.weight)
        after = model(image, {"res4": maps["res4"]})
        changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
        assert changed == {"res4", "res5"}
        assert all(torch.equal(value, before[key]) for key, value in model(image).items())  # no hook is left
    assert not TimmBackbone(SMALL).feedback


def test_copies_pickles_and_names():
    model = TimmBackbone(LITE0)
    names = [f"body.{key}" for key in timm.create_model(LITE0, features_only=True).state_dict()]
    assert list(model.state_dict()) == [key for key in names if "num_batches" not in key]
    image = torch.randn(1, 3, 64, 64)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert all(torch.equal(a, b) for a, b in zip(model(image).values(), other(image).values(), strict=True))


def taken(model, url, prefix):
    """The tensors of a checkpoint that belong to the backbone at a prefix, after it was loaded."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    TinyCheckpointer(model).load(url)
    after = model.state_dict()
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    weights = {key.rpartition("/")[2]: value for key, value in read_checkpoint(url)["model"].items()}
    own = {key.removeprefix(prefix): value for key, value in after.items() if key.startswith(prefix)}
    assert own.keys() == {key for key in weights if "num_batches" not in key}
    assert all(torch.equal(value, weights[key]) for key, value in own.items())
    assert changed
    return {key for key in changed if not key.startswith(prefix)}


@pytest.mark.parametrize(
    ("model", "prefix"),
    [
        (RCNN.fpn(RCNN.timm_backbone(LITE0), 16), "bottom_up.body."),
        (PARTS.sarl(OmegaConf.create({"backbone": RCNN.fpn(RCNN.timm_backbone(LITE0), 16)})).backbone,
         "bottom_up.backbone.body."),
        (PARTS.efpnbs(OmegaConf.create({"backbone": RCNN.fpn(RCNN.timm_backbone(LITE0), 16)})).backbone,
         "backbone.bottom_up.body."),
    ],
    ids=["FPN", "SARL", "E-FPN-BS"],
)  # fmt: skip
def test_weights_go_into_the_backbone_and_nowhere_else(model, prefix):
    assert not taken(instantiate(model), f"timm://{LITE0}", prefix)


def test_detectron2s_own_checkpointer_reads_them(tmp_path, monkeypatch):
    """``MODEL.WEIGHTS: timm://NAME`` under DefaultTrainer."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    model = instantiate(RCNN.fpn(RCNN.timm_backbone(LITE0), 16))
    expected = instantiate(RCNN.fpn(RCNN.timm_backbone(LITE0), 16))
    expected.load_state_dict(model.state_dict())
    TinyCheckpointer(expected).load(f"timm://{LITE0}")
    DetectionCheckpointer(model).load(f"timm://{LITE0}")
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="Unsupported query"):  # a file cannot be named there
        DetectionCheckpointer(model).load(f"timm://{LITE0}?checkpoint=x.pth")


def test_average_weights_start_from_them():
    """As a training does it: the average is made first and reset after the weights were loaded."""
    model = TimmBackbone(LITE0)
    ema = ModelEMA(model, 0.99)
    TinyCheckpointer(model).load(f"timm://{LITE0}", checkpointables=[])
    ema.reset()
    for key, value in model.state_dict().items():
        assert torch.equal(ema.average[key], value)
    assert model.body.conv_stem.weight.std() > 0.2, "random weights have less"


def test_weights_of_another_model_are_refused(tmp_path):
    """A ResNet-101 has all tensors of a ResNet-50, in the same shapes."""
    state = {f"timm://resnet14t/{key}": value for key, value in TimmBackbone("resnet14t").body.state_dict().items()}
    torch.save({"model": state}, tmp_path / "x.pth")
    for name, words in ((SMALL, "are weights of resnet14t, but the model .*is resnet10t"), (LITE0, "resnet14t")):
        model = instantiate(L(nn.Sequential)()).append(TimmBackbone(name))
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(CheckpointError, match=words):
            TinyCheckpointer(model).load(str(tmp_path / "x.pth"))
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match=r"first: layer1.0.conv1.weight"):
        TinyCheckpointer(TimmBackbone("resnet14t", base_width=32)).load(str(tmp_path / "x.pth"))
    with pytest.raises(CheckpointError, match="none of the checkpoint's"):
        TinyCheckpointer(nn.Linear(1, 1)).load(str(tmp_path / "x.pth"))


def test_what_follows_from_the_backbone():
    """Channels of a node on the meta device, and the normalisation of the weights, also under necks."""
    node = RCNN.timm_backbone(LITE0)
    state = torch.get_rng_state()
    assert [s.channels for s in backbone_shape(node).values()] == [24, 40, 112, 320]
    assert torch.equal(torch.get_rng_state(), state)
    for name, mean, std in ((LITE0, [127.0] * 3, [128.0] * 3), ("resnet18", *IMAGENET)):
        model = PARTS.efpnbs(RCNN.for_weights_of(RCNN.timm_backbone(name), RCNN.faster_rcnn_r18(8)))
        assert (list(model.pixel_mean), list(model.pixel_std)) == (mean, std)
    plain = config("quick/faster_rcnn_r18_fpn_rfla")
    plain.model.pixel_mean = "${pixel_mean:${.backbone}}"
    with pytest.raises(Exception, match="does not name the images its weights were trained with; write numbers"):
        _ = plain.model.pixel_mean


def test_the_normalisation_may_be_set_but_not_the_channels():
    name = "hituav/faster_rcnn_lite0_fpn_rfla"
    cfg = load_config(name, ["model.pixel_mean=[1.0,2.0,3.0]"])
    assert list(cfg.model.pixel_mean) == [1.0, 2.0, 3.0]
    with pytest.raises(ConfigError, match="follows from"):
        load_config(name, ["model.proposal_generator.head.in_channels=3"])
    other = load_config(name, ["model.backbone.bottom_up.model_name=tf_efficientnet_lite2"])
    assert instantiate(other.model).backbone.bottom_up.output_shape()["res5"].channels == 352


MODELS = {  # others are configs, which tests/modeling/test_configs.py trains
    "retinanet": lambda: RCNN.on_lite0(DENSE.retinanet_r18(8)),
    "swin": lambda: RCNN.for_weights_of(RCNN.timm_backbone(SWIN), RCNN.faster_rcnn_r18(8)),
    "yolov5": lambda: YOLO.on_timm(YOLO.yolov5("s", 8), RCNN.timm_backbone(SMALL)),
    "yolox": lambda: YOLO.on_timm(YOLO.yolox("s", 8), RCNN.lite0(), [64, 96, 128]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_detectors_train_and_predict(name):
    model = instantiate(narrow(OmegaConf.create({"model": MODELS[name]()})).model)
    for batch in BATCHES.values():
        step(model, batch)
    assert predict(model).image_size == (70, 90)


def test_under_the_neck_of_yolo():
    backbone = TimmBackbone(LITE0, out_features=["res3", "res4", "res5"])
    channels = [s.channels for s in backbone.output_shape().values()]
    neck = PAFPN(in_features=["res3", "res4", "res5"], in_channels=channels, out_channels=channels, repeats=1)
    maps = neck(backbone(torch.randn(2, 3, 64, 96)))
    shapes = [tuple(x.shape) for key, x in maps.items() if not key.startswith("res")]
    assert shapes == [(2, 40, 8, 12), (2, 112, 4, 6), (2, 320, 2, 3)]


def test_learning_rates_and_decay_of_transformers():
    """Layer decay of a ConvNeXt-T; norms, layer scales and tables of positions are not decayed, biases are."""
    groups = {}
    for name in ("convnext_t", "swin_t"):
        cfg = load_config(f"aitod/faster_rcnn_{name}_fpn_rfla_1x")
        with torch.device("meta"):
            model = instantiate(cfg.model)
        cfg.optimizer.params.model = model
        names = {id(p): key for key, p in model.named_parameters()}
        optimizer = instantiate(cfg.optimizer)
        for group in optimizer.param_groups:
            groups |= {f"{name} {names[id(p)]}": (group["lr"], group["weight_decay"]) for p in group["params"]}
    body = "backbone.bottom_up.body."
    for key, power, decay in (
        ("convnext_t roi_heads.box_head.fc1.weight", 0, 0.05),
        (f"convnext_t {body}stem_0.weight", 7, 0.05),
        (f"convnext_t {body}stem_1.weight", 7, 0.0),
        (f"convnext_t {body}stages_0.blocks.0.gamma", 6, 0.0),
        (f"convnext_t {body}stages_1.downsample.1.bias", 5, 0.05),
        (f"convnext_t {body}stages_2.blocks.2.conv_dw.weight", 4, 0.05),
        (f"convnext_t {body}stages_2.blocks.3.conv_dw.weight", 3, 0.05),
        (f"convnext_t {body}stages_2.blocks.8.conv_dw.weight", 2, 0.05),
        (f"convnext_t {body}stages_3.blocks.0.mlp.fc1.weight", 1, 0.05),
        (f"swin_t {body}layers_0.blocks.0.attn.relative_position_bias_table", 0, 0.0),
        (f"swin_t {body}layers_0.blocks.0.attn.qkv.weight", 0, 0.05),
    ):
        assert groups[key] == (pytest.approx(1e-4 * 0.95**power), decay), key
    twins = parameter_groups(model=nn.Sequential(TimmBackbone("twins_svt_small")))
    assert sum(len(group["params"]) for group in twins) == 286
