"""Every config: load, validate, build narrow, train a step, evaluate a step, save, load; and through get_cfg."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from d2tiny import model_zoo
from d2tiny.config import load_config, save_config, validate_config
from d2tiny.config.lazy import configs_root
from d2tiny.config.native import lazy_from_yacs
from tests.modeling.test_detector import item

sys.path.insert(0, str(configs_root().parent))
from configs.common import dino, yolo

LAZY = [name for name in model_zoo.list_configs() if not name.endswith(".yaml")]
YAML = [name for name in model_zoo.list_configs() if name.endswith(".yaml")]
NARROW_YAML = [
    "MODEL.RESNETS.DEPTH=18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS=64",
    "MODEL.RESNETS.NORM=BN",
    "MODEL.BACKBONE.FREEZE_AT=0",
    "MODEL.FPN.OUT_CHANNELS=32",
    "MODEL.ROI_BOX_HEAD.FC_DIM=64",
]
BATCHES = {
    "normal": [item([[10, 10, 18, 17], [30, 40, 36, 47]]), item([[50, 20, 61, 33]])],
    "half-empty": [item([[10, 10, 18, 17]]), item([])],
    "empty": [item([]), item([])],
}


def narrow(cfg):
    """A random R18 instead of the pretrained R50, 32 channels: the same graph, and seconds to run."""
    if "encoder" in cfg.model:
        OmegaConf.set_struct(cfg, False)
        if cfg.model.backbone.backbone.stages.depth != 18:
            dino.quick(cfg.model)
        cfg.model.embed_dim = 32
        cfg.model.encoder.update(num_layers=1, num_heads=2, feedforward_dim=32)
        cfg.model.decoder.num_layers = 2
        OmegaConf.set_struct(cfg, True)
        return cfg
    if "in_channels" in cfg.model.get("head", {}):
        stages, _ = yolo.chain(cfg.model)
        stages.update(depth=0.33, width=0.125)
        yolo.fit(cfg.model)
        return cfg
    model, node, width = cfg.model, cfg.model.backbone, 32
    while "out_channels" not in node:
        if "neck" in node:
            node.neck.channels = width
        if "second" in node:
            node.second.update(depth=18, norm="BN", freeze_at=0, feedback_channels=width)
        node = node.get("backbone", node.get("fpn"))
    node.out_channels = width
    if "in_channels" in node.top_block:
        node.top_block.in_channels = node.top_block.out_channels = width
    bottom_up = node.bottom_up
    if "neck" in bottom_up:
        bottom_up.neck.channels = [64, 128, 256, 512][-len(bottom_up.neck.levels) :]
        bottom_up = bottom_up.backbone
    bottom_up.freeze_at = 0
    if "stages" in bottom_up:
        bottom_up.stem.norm = bottom_up.stages.norm = "BN"
        OmegaConf.set_struct(bottom_up, False)
        bottom_up.stages.pop("stride_in_1x1", None)
        bottom_up.stages.depth = 18
    else:
        bottom_up.update(depth=18, norm="BN")
    if "roi_heads" not in model:
        model.head.net.conv_dims = [2 * width]  # GN has 32 groups, and P7 of a small image has one place
        for shape in model.head.net.input_shape:
            shape.channels = width
        return cfg
    model.proposal_generator.head.in_channels = width
    heads = model.roi_heads
    for head in heads.get("box_heads", [heads.get("box_head")]):
        head.input_shape.channels, head.fc_dims = width, [64, 64]
    for predictor in heads.get("box_predictors", [heads.get("box_predictor")]):
        predictor.input_shape.channels = 64
    return cfg


def step(model, batch):
    model.train()
    with EventStorage(0):
        losses = model(batch)
    total = sum(losses.values())
    model.zero_grad()
    total.backward()
    assert torch.isfinite(total)
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def predict(model):
    model.eval()
    torch.manual_seed(1)
    with torch.no_grad():
        return model([{"image": torch.randint(0, 255, (3, 70, 90), dtype=torch.uint8)}])[0]["instances"]


@pytest.mark.parametrize("name", LAZY)
def test_lazy_config(name, tmp_path):
    cfg = load_config(name)
    validate_config(cfg, datasets=False)
    save_config(cfg, tmp_path / "config.yaml")
    assert OmegaConf.to_container(load_config(tmp_path / "config.yaml")).keys() == cfg.keys()
    narrow(cfg)
    validate_config(cfg, datasets=False)
    model = instantiate(cfg.model)
    for batch in BATCHES.values():
        step(model, batch)
    before = predict(model)
    torch.save(model.state_dict(), tmp_path / "model.pth")

    # the saved and reloaded config with the saved weights gives the same detections, also through get_cfg
    save_config(cfg, tmp_path / "narrow.yaml")
    cfg_node = model_zoo.get_cfg(str(tmp_path / "narrow.yaml"), str(tmp_path / "model.pth"), device="cpu")
    predictor = DefaultPredictor(cfg_node)
    after = predict(predictor.model)
    assert torch.equal(before.pred_boxes.tensor, after.pred_boxes.tensor)
    assert torch.equal(before.scores, after.scores)
    assert "instances" in predictor(np.zeros((61, 83, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", YAML)
def test_yaml_config(name):
    cfg = model_zoo.get_cfg(
        name,
        device="cpu",
        overrides=NARROW_YAML,
    )
    model = build_model(cfg)
    for batch in BATCHES.values():
        step(model, batch)
    predict(model)
    assert DefaultPredictor(cfg)(np.zeros((61, 83, 3), dtype=np.uint8))["instances"].image_size == (61, 83)


@pytest.mark.parametrize("name", YAML)
def test_yaml_with_nwd_in_nms_and_matching(name):
    keys = ["MODEL.RPN.NMS_METRIC=nwd", "MODEL.RPN.NMS_THRESH=0.85", "MODEL.ROI_HEADS.MATCH_BY_NWD=True"]
    cfg = model_zoo.get_cfg(name, device="cpu", overrides=[*NARROW_YAML, *keys, "MODEL.NWD.CONSTANT=9.5"])
    model = build_model(cfg)
    rpn, heads = model.proposal_generator, model.roi_heads
    assert (rpn.nms_metric, rpn.nms_thresh, rpn.nwd_constant, heads.match_nwd) == ("nwd", 0.85, 9.5, 9.5)
    step(model, BATCHES["normal"])
    boxes = torch.tensor([[0.0, 0, 8, 8], [4, 0, 12, 8]])
    assert heads._overlap(boxes[:1], boxes[1:]).item() == pytest.approx(np.exp(-4 / 9.5))
    with pytest.raises(ValueError, match="nms_metric"):
        build_model(model_zoo.get_cfg(name, device="cpu", overrides=[*NARROW_YAML, "MODEL.RPN.NMS_METRIC=ndw"]))


@pytest.mark.parametrize("name", YAML)
def test_yaml_and_lazy_twin_are_the_same_network(name):
    """Names and shapes of all weights of the native YAML and of the lazy config."""
    twin = name.removeprefix("yaml/").replace(".yaml", "_1x")
    lazy = instantiate(load_config(f"aitod/{twin}").model)
    yaml = build_model(model_zoo.get_cfg(name, device="cpu"))
    shapes = [{k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (lazy, yaml)]
    assert shapes[0] == shapes[1]


def test_yaml_under_our_trainer_means_the_same_run():
    path = configs_root() / "yaml/faster_rcnn_r50_efpnbs_rfla_dcloss.yaml"
    cfg = lazy_from_yacs(path, ["SOLVER.MAX_ITER=84108", "train.device=cpu"])
    twin = load_config("aitod/faster_rcnn_r50_efpnbs_rfla_dcloss_1x")
    for key in ("lr", "momentum", "weight_decay"):
        assert cfg.optimizer[key] == twin.optimizer[key]
    schedules = [instantiate(c.lr_multiplier) for c in (cfg, twin)]
    for where in (0.0, 0.01, 0.05, 0.5, 0.7, 0.95):
        assert schedules[0](where) == pytest.approx(schedules[1](where))
    assert cfg.train.max_iter == twin.train.max_iter
    assert cfg.train.device == "cpu"
    assert cfg.dataloader.train.dataset.names == ["aitod_trainval"]
    assert list(cfg.dataloader.test.mapper.augmentations) == []
    validate_config(cfg, datasets=False)


def test_papers_settings():
    """SPEC §1.5 and §3.4."""
    cfg = load_config("aitod/faster_rcnn_r50_efpnbs_rfla_dcloss_1x")
    assert cfg.train.max_iter == 12 * 14018 // 2
    schedule = instantiate(cfg.lr_multiplier)
    assert schedule(0.0) == pytest.approx(0.001)
    assert schedule(5000 / 84108) == pytest.approx(1.0)
    assert schedule(56071 / 84108) == pytest.approx(1.0)
    assert schedule(56073 / 84108) == pytest.approx(0.1)
    assert schedule(77100 / 84108) == pytest.approx(0.01)
    rpn, roi = cfg.model.proposal_generator, cfg.model.roi_heads
    assert tuple(rpn.post_nms_topk) == (3000, 3000)
    assert roi.box_predictor.test_topk_per_image == 3000
    assert (roi.batch_size_per_image, roi.positive_fraction) == (512, 0.25)
    assert (rpn.assigner.metric, tuple(rpn.assigner.topk), rpn.assigner.ratio) == ("kld", (3, 1), 0.9)
    assert rpn.box_loss.mode == roi.box_predictor.box_loss.mode == "prose"


def test_configs_are_short_diffs():
    """An experiment file is a short diff against a named parent."""
    for path in Path(configs_root()).rglob("*.py"):
        if "common" not in path.parts:
            assert len(path.read_text().splitlines()) <= 45, path


def test_cfg_node_edits_are_obeyed():
    cfg = model_zoo.get_cfg("quick/faster_rcnn_r18_fpn_rfla", device="cpu")
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 1500
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.77
    assert build_model(cfg).roi_heads.box_predictor.test_score_thresh == 0.77


def test_zoo_names():
    assert "quick/faster_rcnn_r18_fpn_rfla" in model_zoo.list_configs("quick/*")
    assert not model_zoo.list_configs("common/*")
    with pytest.raises(Exception, match="Did you mean 'quick/faster_rcnn_r18_fpn_rfla'"):
        model_zoo.get_config("quick/faster_rcnn_r18_fpn_rlfa")
