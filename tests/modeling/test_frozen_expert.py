"""Frozen experts of REM: weights from their source, images as they know them, and nothing learned, saved or moved."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from d2tiny.config import load_config
from d2tiny.engine.checkpoint import TinyCheckpointer
from d2tiny.engine.ema import ModelEMA
from d2tiny.engine.optim import parameter_groups
from d2tiny.engine.publish import halved
from d2tiny.modeling.backbone import TimmBackbone, TimmViT
from d2tiny.modeling.transformer import FrozenExpert
from d2tiny.modeling.transformer.experts import resampled_map
from d2tiny.modeling.transformer.frozen_backbone import FrozenBackbone
from d2tiny.utils import weights as weights_module
from d2tiny.utils.errors import CheckpointError, ConfigError
from d2tiny.utils.weights import load_part, load_weights
from tests.helpers.images import item
from tests.helpers.models import config, narrow, shared

VIT = "test_vit"  # of timm, with 0.4 M parameters; its patches have 16 px
DINOV2 = {"embed_dim": 32, "depth": 2, "num_heads": 2}
MEAN, STD = [100.0, 110.0, 120.0], [50.0, 55.0, 60.0]
EXPERTS = shared("parts/experts")


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory):
    """A file as timm's hub has, with random weights; what of a network would be fetched."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("hub") / "pytorch_model.pth"
    torch.save(timm.create_model(VIT).state_dict(), path)
    return path


def detector(expert="vit_expert", model_name=VIT, **settings):
    """Build a small DINO with REM and one frozen expert."""
    cfg = config("quick/dino_r18_rem").model
    OmegaConf.set_struct(cfg, False)
    getattr(EXPERTS, expert)(cfg, model_name, name="big", **settings)
    cfg.pixel_mean, cfg.pixel_std = MEAN, STD
    whole = narrow(OmegaConf.create({"model": cfg}, flags={"allow_objects": True}))
    OmegaConf.set_struct(whole, False)
    for frozen in whole.model.routing.experts[4:]:
        frozen.weights = settings.get("weights", "")
    torch.manual_seed(0)
    return instantiate(whole.model)


def source(vit_file):
    return f"timm://{VIT}?checkpoint={vit_file}"


# --- maps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224"]
)
def test_maps_of_vision_transformers_of_any_size(name):
    model = TimmViT(name, **DINOV2).eval()
    assert model.output_shape() == {"vit": ShapeSpec(channels=32, stride=14)}
    for height, width in ((140, 70), (14, 518)):
        with torch.no_grad():
            assert model(torch.randn(1, 3, height, width))["vit"].shape == (1, 32, height // 14, width // 14)


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "vit_of_next_year"])
def test_other_models_are_no_plain_vision_transformers(name):
    with pytest.raises(ConfigError, match=r"plain vision transformer|timm has no"):
        TimmViT(name)


def test_a_map_lies_on_a_level_by_its_pixels():
    """A plane a·x + b·y stays that plane: 70 px in cells of 14 on 64 px in cells of 4 and of 32 (by means of 2 × 2)."""
    centres = (torch.arange(5) + 0.5) * 14
    plane = (centres[None] * 2 + centres[:, None] * 3)[None, None]
    for cells in (16, 2):
        found = resampled_map(plane, (70, 70), (cells, cells), (64, 64))[0, 0]
        expected = (torch.arange(cells) + 0.5) * 64 / cells
        expected = expected[None] * 2 + expected[:, None] * 3
        inside = slice(2, -2) if cells == 16 else slice(None)  # outside the centres of cells the border is repeated
        torch.testing.assert_close(found[inside, inside], expected[inside, inside], atol=1e-3, rtol=1e-5)


def test_a_map_of_the_same_extent_is_interpolated():
    features = torch.randn(2, 3, 7, 5)
    found = resampled_map(features, (112, 80), (28, 20), (112, 80))
    torch.testing.assert_close(found, F.interpolate(features, size=(28, 20), mode="bilinear", align_corners=False))


# --- images --------------------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """Returns the image that it gets."""

    pixel_mean, pixel_std, size_divisibility = [120.0, 115.0, 105.0], [60.0, 58.0, 57.0], 14

    def forward(self, image):
        return {"seen": image}


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_the_image_is_normalised_as_the_expert_knows_it(order):
    """The detector's mean and deviation are in its own order, the expert's in RGB; padding is 0."""
    pixels = torch.randint(0, 255, (2, 3, 20, 30)).float()
    given = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    frozen = FrozenBackbone(Recorder(), weights="random", pixel_mean=MEAN, pixel_std=STD, input_format=order)
    maps, covered = frozen(given)
    rgb = pixels.flip(1) if order == "BGR" else pixels
    expected = (rgb - torch.tensor(Recorder.pixel_mean).view(3, 1, 1)) / torch.tensor(Recorder.pixel_std).view(3, 1, 1)
    assert covered == maps["seen"].shape[-2:] == (28, 42)
    torch.testing.assert_close(maps["seen"][..., :20, :30], expected, atol=1e-4, rtol=1e-4)
    assert not maps["seen"][..., 20:, :].any()
    assert not maps["seen"][..., 30:].any()


def test_batch_mates_change_nothing():
    """An image among larger ones has the maps that it has alone: it is cut out before it is attended to."""
    torch.manual_seed(0)
    backbone = TimmViT("vit_small_patch14_dinov2", **DINOV2)
    expert = FrozenExpert(
        backbone=backbone, in_features=["vit"] * 2, embed_dim=32, weights="random", pixel_mean=MEAN, pixel_std=STD
    )
    image = torch.randn(1, 3, 64, 96)
    sizes = ((16, 24), (8, 12))
    alone = expert([torch.zeros(1, 32, *size) for size in sizes], None, image)
    batch = torch.zeros(2, 3, 128, 160)
    batch[0, :, :64, :96], batch[1] = image[0], torch.randn(3, 128, 160)
    masks = [torch.zeros(2, 1, 128 // stride, 160 // stride, dtype=torch.bool) for stride in (4, 8)]
    for mask, (rows, columns) in zip(masks, sizes, strict=True):
        mask[0, :, :rows, :columns] = mask[1] = True
    both = expert([torch.zeros(2, 32, *mask.shape[-2:]) for mask in masks], masks, batch)
    for own, other, (rows, columns) in zip(alone, both, sizes, strict=True):
        torch.testing.assert_close(other[:1, :, :rows, :columns], own, atol=1e-4, rtol=1e-4)


# --- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "expert"), [(TimmViT, "vit_expert"), (TimmBackbone, "timm_expert")])
def test_weights_come_from_a_file(kind, expert, vit_file, tmp_path):
    name, file = (VIT, vit_file) if kind is TimmViT else ("resnet10t", tmp_path / "resnet.pth")
    if kind is TimmBackbone:
        torch.save(timm.create_model(name).state_dict(), file)
    given = torch.load(file, weights_only=True)
    model = detector(expert, name, weights=f"timm://{name}?checkpoint={file}")
    own = model.routing.experts["big"].backbone.model.body.state_dict()
    assert len(own) > 20
    for key, value in own.items():
        key = key.removeprefix("model.")
        if "num_batches_tracked" not in key:
            assert torch.equal(value, given[key]), key


def test_without_weights_it_is_not_built(monkeypatch, vit_file):
    """No network, no such file, a file of another model: each is said, with the way out; nothing goes on at random."""

    def no_network(path):
        raise CheckpointError(f"{path}: cannot fetch the weights.")

    for weights in (f"timm://{VIT}?checkpoint=/none.pth", f"timm://resnet10t?checkpoint={vit_file}"):
        with pytest.raises(CheckpointError, match=r"expert 'big' has no weights(.|\n)*weights=random"):
            detector(weights=weights)
    monkeypatch.setattr(weights_module, "read_checkpoint", no_network)
    with pytest.raises(CheckpointError, match=f"expert 'big' has no weights: timm://{VIT}: cannot fetch"):
        detector()
    with pytest.raises(ValueError, match="names no weights"):
        FrozenExpert(backbone=Recorder(), in_features=["seen"], in_channels=[3], embed_dim=32)
    with pytest.raises(ValueError, match="pixel_mean and pixel_std of the detector"):
        FrozenBackbone(Recorder(), weights="random")
    with pytest.raises(ValueError, match=r"no feature map 'vot'.*'vit'"):
        FrozenExpert(backbone=TimmViT(VIT), in_features=["vot"], embed_dim=32, weights="random")


def test_a_file_that_lacks_tensors_is_refused(tmp_path):
    """Detectron2's reader would leave them at random."""
    torch.save({"model": {"0.weight": torch.ones(2, 2)}}, tmp_path / "half.pth")
    with pytest.raises(CheckpointError, match=r"1 tensors are missing or of another shape \(first: 0\.bias"):
        load_part(nn.Sequential(nn.Linear(2, 2)), tmp_path / "half.pth")


def test_it_is_not_trained_saved_averaged_or_published(vit_file):
    model = detector(weights=source(vit_file)).train()
    frozen = model.routing.experts["big"]
    inside = dict(frozen.backbone.model.named_parameters())
    assert inside
    assert not any(module.training for module in frozen.backbone.model.modules())
    optimized = {id(p) for group in parameter_groups(model=model) for p in group["params"]}
    assert not optimized & {id(p) for p in inside.values()}
    assert id(frozen.adapters[0][0].weight) in optimized
    before = copy.deepcopy(frozen.backbone.model.state_dict())
    with EventStorage(0):
        sum(model([item([[10, 10, 18, 17]]), item([], (96, 128))]).values()).backward()
    assert frozen.adapters[0][0].weight.grad is not None
    assert all(p.grad is None for p in inside.values())
    assert all(torch.equal(before[key], value) for key, value in frozen.backbone.model.state_dict().items())
    for state in (model.state_dict(), halved(model), ModelEMA(model, 0.9).average):
        assert not [key for key in state if "backbone.model." in key]
        assert [key for key in state if "experts.big.adapters" in key]


def test_a_checkpoint_names_the_weights_that_it_was_trained_with(vit_file, tmp_path):
    model = detector(weights=source(vit_file)).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    again = detector(weights=source(vit_file)).eval()
    nn.init.zeros_(again.routing.experts["big"].adapters[0][0].weight)
    load_weights(again, tmp_path / "model.pth")
    image = {"image": torch.randint(0, 255, (3, 64, 96), dtype=torch.uint8)}
    with torch.no_grad():
        ours, theirs = (m([image])[0]["instances"] for m in (model, again))
    assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    torch.manual_seed(9)
    torch.save(timm.create_model(VIT).state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="trained with other weights of this expert"):
        load_weights(detector(weights=source(tmp_path / "other.pth")), tmp_path / "model.pth")


def test_a_checkpoint_that_keeps_them_works_without_the_source(vit_file, tmp_path, caplog):
    model = detector(weights=source(vit_file), in_checkpoint=True)
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    offline = detector(weights="timm://test_vit?checkpoint=/none.pth", in_checkpoint=True).eval()
    assert "A checkpoint of the detector must bring them" in caplog.text
    image = {"image": torch.zeros(3, 64, 96, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match="expert 'big' has no weights"):
        offline([image])
    load_weights(offline, tmp_path / "model.pth")
    own, given = (m.routing.experts["big"].backbone.model.state_dict() for m in (offline, model))
    assert all(torch.equal(own[key], value) for key, value in given.items())
    with torch.no_grad():
        offline([image])


@pytest.mark.parametrize("in_checkpoint", [False, True])
def test_initial_weights_of_the_detector_are_not_for_it(in_checkpoint, vit_file, tmp_path):
    """Neither those of timm nor those that Detectron2 renames by the ends of names, though both are ResNets."""
    model = detector("timm_expert", "resnet10t", weights="random", in_checkpoint=in_checkpoint)
    expert = model.routing.experts["big"].backbone.model
    before = copy.deepcopy(expert.state_dict())
    model.backbone.backbone = TimmBackbone("resnet10t")
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "resnet.pth")
    TinyCheckpointer(model, str(tmp_path)).load(f"timm://resnet10t?checkpoint={tmp_path}/resnet.pth")
    assert all(torch.equal(before[key], value) for key, value in expert.state_dict().items())
    given = torch.load(tmp_path / "resnet.pth", weights_only=True)
    assert torch.equal(
        model.backbone.backbone.body.state_dict()["layer1.0.conv1.weight"], given["layer1.0.conv1.weight"]
    )


def test_weights_of_detectron2s_zoo_go_to_the_detector_alone(tmp_path):
    """Names end alike in both ResNets; Detectron2's matching would refuse such a model."""

    def resnet():
        stages = ResNet.make_default_stages(18, norm="BN")
        return ResNet(BasicStem(3, 64, "BN"), stages, out_features=["res2", "res3", "res4", "res5"])

    expert = FrozenExpert(
        backbone=resnet(), in_features=["res2"], embed_dim=32, weights="random", pixel_mean=MEAN, pixel_std=STD
    )
    model = nn.ModuleDict({"backbone": resnet(), "expert": expert})
    before = copy.deepcopy(expert.state_dict())
    zoo = resnet().state_dict()
    torch.save({"model": zoo, "matching_heuristics": True}, tmp_path / "zoo.pth")
    TinyCheckpointer(model, str(tmp_path)).load(str(tmp_path / "zoo.pth"))
    assert all(torch.equal(model["backbone"].state_dict()[key], value) for key, value in zoo.items())
    assert all(torch.equal(before[key], value) for key, value in expert.state_dict().items())


def test_the_config_of_a_foundation_model():
    """Strides 4 to 64 read one map; the images are normalised by what the detector has."""
    cfg = load_config("aitod/scalebridge_r50_5scale_dinov2_24e")
    expert = cfg.model.routing.experts[-1]
    assert list(expert.in_features) == ["vit"] * 5
    assert (expert.pixel_mean, expert.embed_dim, expert.input_format) == (cfg.model.pixel_mean, 256, "RGB")
    assert L(TimmViT)(model_name="a")._target_ is expert.backbone._target_
