"""Any backbone and neck with any detector, assigner and loss; what cannot work is refused with the reason."""

from __future__ import annotations

import itertools

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.engine import DefaultPredictor
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem

from d2tiny import model_zoo
from d2tiny.config import apply_overrides, save_config, validate_config
from d2tiny.engine.run import run
from d2tiny.utils.errors import CheckpointError, ConfigError
from tests.helpers.models import ASSIGNERS, BATCHES, LOSSES, PARTS, config, narrow, overrides, predict, step

NECKS = {
    "fpn": (),
    "efpnbs": ("efpnbs",),
    "sarl": ("sarl",),
    "sarl and efpnbs": ("sarl", "efpnbs"),
    "rfp": ("detectors",),
    "rfp and efpnbs": ("detectors", "efpnbs"),
}
DETECTORS = {"faster": "quick/faster_rcnn_r18_fpn_rfla", "cascade": "quick/cascade_rcnn_r18_fpn_rfla"}


def mixed(detector, neck, assigner, loss):
    cfg = config(DETECTORS[detector])
    for part in NECKS[neck]:
        PARTS[part](cfg.model)
    changes = overrides("model.proposal_generator.assigner", ASSIGNERS[assigner])
    changes += overrides("model.proposal_generator.box_loss", LOSSES[loss])
    if detector == "faster":
        changes += overrides("model.roi_heads.box_predictor.box_loss", LOSSES[loss])
    for stage in range(3) if detector == "cascade" else ():
        changes += overrides(f"model.roi_heads.box_predictors.{stage}.box_loss", LOSSES[loss])
    return apply_overrides(cfg, changes)


@pytest.mark.slow
@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("detector", DETECTORS)
def test_all_combinations_are_valid_and_some_are_trained(detector, neck):
    """648 configs are checked; three of each detector and neck, never the same pair, take a step and predict."""
    pairs = list(itertools.product(ASSIGNERS, LOSSES))
    start = 3 * (list(NECKS).index(neck) + len(NECKS) * list(DETECTORS).index(detector))
    for number, (assigner, loss) in enumerate(pairs):
        cfg = mixed(detector, neck, assigner, loss)
        validate_config(cfg, datasets=False)
        if number in {7 * i % len(pairs) for i in range(start, start + 3)}:
            model = instantiate(narrow(cfg).model)
            for batch in BATCHES.values():
                step(model, batch)
            predict(model)


def test_a_relay_inside_the_recursive_pyramid_is_refused():
    """RFP feeds back into the blocks of its backbones; a neck around them takes no feedback."""
    cfg = model_zoo.get_config("quick/detectors_r18_rfp_rfla")
    relay = {"_target_": "d2tiny.modeling.necks.SARL", "in_channels": [64, 128, 256, 512]}
    fpn = cfg.model.backbone.fpn
    fpn.in_features = list(fpn.in_features)
    fpn.bottom_up = {
        "_target_": "d2tiny.modeling.necks.NeckedBackbone",
        "backbone": fpn.bottom_up,
        "neck": relay,
    }
    with pytest.raises(ValueError, match="or both a TimmBackbone; got NeckedBackbone"):
        instantiate(cfg.model)


def test_a_plain_resnet_in_the_recursive_pyramid_is_refused():
    cfg = model_zoo.get_config("quick/detectors_r18_rfp_rfla")
    cfg.model.backbone.fpn.bottom_up = model_zoo.get_config(DETECTORS["faster"]).model.backbone.bottom_up
    with pytest.raises(ValueError, match="or both a TimmBackbone; got ResNet"):
        instantiate(cfg.model)


def test_widths_follow_from_the_pyramid():
    """One decision, the width of the pyramid, reaches neck, second backbone, RPN and all stages of the cascade."""
    cfg = model_zoo.get_config("quick/detectors_r18_efpnbs_rfla", ["model.backbone.backbone.fpn.out_channels=48"])
    model = cfg.model
    assert model.backbone.neck.channels == model.backbone.backbone.second.feedback_channels == 48
    assert model.backbone.neck.mid_channels == 12
    assert model.proposal_generator.head.in_channels == 48
    assert [head.input_shape.channels for head in model.roi_heads.box_heads] == [48, 48, 48]
    step(instantiate(model), BATCHES["normal"])


@pytest.mark.parametrize(
    "key",
    [
        "backbone.neck.channels=64",
        "proposal_generator.head.in_channels=64",
        "roi_heads.box_heads.2.input_shape.channels=64",
    ],
)
def test_consequences_cannot_be_set(key):
    with pytest.raises(ConfigError, match=rf"^model\.{key.split('=')[0]}: this follows from .* and cannot be set"):
        model_zoo.get_config("quick/detectors_r18_efpnbs_rfla", [f"model.{key}"])


DENSE = {
    "relay": lambda model: PARTS["sarl"](model),
    "recursive": lambda model: PARTS["detectors"](model),
    "enhanced": lambda model: PARTS["efpnbs"](model, pairs=[["p7", "p3"]]),
    "recursive and enhanced": lambda model: (PARTS["detectors"](model), PARTS["efpnbs"](model, pairs=[["p6", "p3"]])),
}


@pytest.mark.parametrize("change", DENSE)
def test_dense_detectors_on_p3_to_p7(change):
    """Every weight gets a gradient: nothing is built that the pyramid does not read."""
    cfg = model_zoo.get_config("aitod/retinanet_r50_fpn_rfla_1x")
    DENSE[change](cfg.model)
    validate_config(cfg, datasets=False)
    model = instantiate(narrow(cfg).model)
    step(model, BATCHES["half-empty"])
    predict(model)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (("detectors", "sarl"), "reads its backbones itself"),
        (("efpnbs", "detectors"), "call it before efpnbs"),
        (("sarl", "detectors"), "not with sarl"),
        (("efpnbs", "sarl"), "call it before efpnbs"),
    ],
)
def test_parts_in_an_order_that_cannot_work(parts, reason):
    cfg = model_zoo.get_config(DETECTORS["faster"])
    PARTS[parts[0]](cfg.model)
    with pytest.raises(Exception, match=reason):
        PARTS[parts[1]](cfg.model)


def test_a_relay_before_another_backbone_reads_its_channels():
    """RegNetX-400MF: widths of its four stages from Radosavovic et al., 2020."""
    cfg = model_zoo.get_config(DETECTORS["faster"])
    cfg.model.backbone.bottom_up = L(RegNet)(
        stem_class=SimpleStem,
        stem_width=32,
        block_class=ResBottleneckBlock,
        depth=22,
        w_a=24.48,
        w_0=24,
        w_m=2.54,
        group_width=16,
        norm="BN",
        out_features=["s1", "s2", "s3", "s4"],
    )
    PARTS["sarl"](cfg.model)
    assert list(cfg.model.backbone.bottom_up.neck.in_channels) == [32, 64, 160, 384]
    step(instantiate(cfg.model), BATCHES["normal"])


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("faster_rcnn_r18_efpnbs_rfla", "backbone.neck.pairs=[[p7,p2]]", "no level 'p7' for pairs"),
        ("faster_rcnn_r18_efpnbs_rfla", "backbone.neck.pairs=[p5,p2]", r"list of \[high, low\]"),
        ("faster_rcnn_r18_efpnbs_rfla", "backbone.neck.pairs=[[p2,p5]]", "'p2' is not coarser than 'p5'"),
        ("faster_rcnn_r18_efpnbslight_rfla", "backbone.neck.residual=true", "light is another FBSM"),
        ("faster_rcnn_r18_efpnbslight_rfla", "backbone.neck.fbsm=false", "light is another FBSM"),
        ("faster_rcnn_r18_sarl_rfla", "backbone.bottom_up.neck.in_features=[res1,res3,res4,res5]", "no level 'res1'"),
        ("faster_rcnn_r18_sarl_rfla", "backbone.bottom_up.neck.norm=XN", "KeyError: 'XN'"),
        ("faster_rcnn_r18_fpn_rfla", "roi_heads.box_in_features=[p2,p3,p4,p7]", "no level 'p7'"),
        ("faster_rcnn_r18_fpn_rfla", "roi_heads.box_in_features=[p2,p3]", "box_pooler has 4 scales"),
        ("cascade_rcnn_r18_fpn_rfla", "roi_heads.stage_loss_weights=[1,-1,2]", "must be >= 0"),
        ("cascade_rcnn_r18_fpn_rfla", "roi_heads.stage_loss_weights=[1,a,2]", "must be >= 0"),
        ("cascade_rcnn_r18_fpn_rfla", "roi_heads.proposal_matchers=[]", "0 proposal_matchers, 3 stages"),
        ("detectors_r18_rfp_rfla", "backbone.second.depth=50", "same stages with the same channels"),
        ("detectors_r18_rfp_rfla", "backbone.second.out_features=[res3,res4,res5]", "same stages"),
    ],
)
def test_what_cannot_work_is_refused_before_training(name, change, reason, datasets, tmp_path):
    cfg = model_zoo.get_config(f"quick/{name}", [f"model.{change}", f"train.output_dir='{tmp_path}'"])
    with pytest.raises(ConfigError, match=reason) as info:
        run(cfg)
    assert str(info.value).startswith("model")


def test_an_override_without_an_index_reaches_every_stage():
    key = "model.roi_heads.box_predictors"
    cfg = model_zoo.get_config(DETECTORS["cascade"], [f"{key}.box_loss=SALoss", f"{key}.1.box_loss=DCLoss"])
    names = [predictor.box_loss._target_.rsplit(".", 1)[-1] for predictor in cfg.model.roi_heads.box_predictors]
    assert names == ["SALoss", "DCLoss", "SALoss"]
    with pytest.raises(ConfigError, match="Did you mean 'box_predictors'"):
        model_zoo.get_config(DETECTORS["cascade"], ["model.roi_heads.box_predictor.box_loss=SALoss"])
    with pytest.raises(ConfigError, match="is no index of it"):
        model_zoo.get_config(DETECTORS["cascade"], [f"{key}.box_los=SALoss"])


@pytest.mark.parametrize("neck", [name for name in NECKS if name != "fpn"])
def test_weights_of_a_plain_detector_reach_everything_that_they_have(neck):
    """A trained detector with an ordinary FPN starts one with any neck: only what is new keeps its first weights."""
    plain = instantiate(narrow(mixed("faster", "fpn", "hla", "l1")).model)
    model = instantiate(narrow(mixed("faster", neck, "hla", "l1")).model)
    given = {name: torch.randn_like(value) for name, value in plain.state_dict().items() if value.is_floating_point()}
    report = model.load_state_dict(given, strict=False)
    assert not report.unexpected_keys
    ours, reached = model.state_dict(), set()
    for name, value in given.items():
        last = name.removeprefix("backbone.bottom_up.").removeprefix("backbone.")
        same = [key for key in ours if key.endswith(last) and torch.equal(ours[key], value)]
        assert len(same) == (2 if "rfp" in neck and "bottom_up" in name else 1), name
        reached.update(same)
    new = [key for key in ours if key not in reached and ours[key].is_floating_point()]
    allowed = ("neck", "aspp", "gate", "feedback", "second.feedback")
    extra = ("weight_gamma", "weight_beta", "weight_diff", "context", "switch", "offset")
    assert all(any(part in key for part in (*allowed, *extra)) or key.startswith("pixel") for key in new), new


def test_a_predictor_refuses_weights_of_another_config(tmp_path):
    narrow_config = narrow(mixed("faster", "fpn", "hla", "l1"))
    save_config(narrow(mixed("faster", "efpnbs", "hla", "l1")), tmp_path / "other.yaml")
    torch.save({"model": instantiate(narrow_config.model).state_dict()}, tmp_path / "model.pth")
    cfg = model_zoo.get_cfg(str(tmp_path / "other.yaml"), str(tmp_path / "model.pth"), device="cpu")
    with pytest.raises(CheckpointError, match=r"missing in the checkpoint .*first: backbone\.neck"):
        DefaultPredictor(cfg)
    save_config(narrow_config, tmp_path / "plain.yaml")
    more = {**instantiate(narrow_config.model).state_dict(), "routing.scale": torch.zeros(8)}
    torch.save({"model": more}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"1 tensors are too many in the checkpoint .*first: routing\.scale"):
        DefaultPredictor(model_zoo.get_cfg(str(tmp_path / "plain.yaml"), str(tmp_path / "more.pth"), device="cpu"))
    with pytest.raises(CheckpointError, match="no such file"):
        model_zoo.get_cfg(str(tmp_path / "other.yaml"), str(tmp_path / "none.pth"))
