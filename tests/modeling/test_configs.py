"""Every config: load, validate, build narrow, train a step, evaluate a step, save, load; and through get_cfg."""

from __future__ import annotations

import ast
import re

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.modeling.matcher import Matcher
from omegaconf import OmegaConf

from d2tiny import model_zoo
from d2tiny.config import load_config, save_config, validate_config
from d2tiny.config.files import config_title, configs_root, find_config
from d2tiny.config.native import lazy_from_yacs
from d2tiny.modeling.roi_heads.matching import match_proposals
from d2tiny.utils.errors import ConfigError
from tests.helpers.models import BATCHES, NARROW_YAML, narrow, predict, step

LAZY = [name for name in model_zoo.list_configs() if not name.endswith(".yaml")]
EXPERIMENTS = {}  # the name without the dataset -> all configs of that name
for _name in LAZY:
    EXPERIMENTS.setdefault(_name.split("/")[-1], []).append(_name)
YAML = [name for name in model_zoo.list_configs() if name.endswith(".yaml")]


@pytest.mark.parametrize("name", LAZY)
def test_lazy_config_is_valid_and_saved(name, tmp_path):
    cfg = load_config(name)
    validate_config(cfg, datasets=False)
    save_config(cfg, tmp_path / "config.yaml")
    assert OmegaConf.to_container(load_config(tmp_path / "config.yaml")).keys() == cfg.keys()


FAST = {  # one of each family for `make test-fast`
    *("faster_rcnn_r18_fpn_rfla", "cascade_rcnn_r18_fpn_rfla", "fcos_r18_p2_rfla", "retinanet_r18_fpn_rfla"),
    *("yolox_s", "yolov5_s", "yolo11_n", "dino_r18", "scalebridge_r18"),
}


@pytest.mark.parametrize(
    "names",
    [pytest.param(v, id=k, marks=() if k in FAST else pytest.mark.slow) for k, v in EXPERIMENTS.items()],
)
def test_lazy_config_trains_and_predicts(names, tmp_path):
    """An experiment on all its datasets; models that differ in the number of classes only are trained once."""
    trained = []
    for name in names:
        cfg = narrow(load_config(name))
        validate_config(cfg, datasets=False)
        network = re.sub(r"'num_classes': \d+", "", str(OmegaConf.to_container(cfg.model, resolve=True)))
        if network not in trained:
            trained.append(network)
            trains_and_predicts(cfg, tmp_path / str(len(trained)))


def trains_and_predicts(cfg, folder):
    model = instantiate(cfg.model)
    for batch in BATCHES.values():
        step(model, batch)
    before = predict(model)
    save_config(cfg, folder / "narrow.yaml")
    torch.save(model.state_dict(), folder / "model.pth")

    # the saved and reloaded config with the saved weights gives the same detections, also through get_cfg
    cfg_node = model_zoo.get_cfg(str(folder / "narrow.yaml"), str(folder / "model.pth"), device="cpu")
    predictor = DefaultPredictor(cfg_node)
    after = predict(predictor.model)
    # a model of `get_cfg` enlarges images itself where the config's test mapper does, see test_resize_by_factor.py
    if not any("factor" in augmentation for augmentation in cfg.dataloader.test.mapper.augmentations):
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
    nwd = float(np.exp(-4 / 9.5))
    labels = [match_proposals(Matcher([nwd + d], [0, 1]), boxes[:1], boxes[1:], 9.5)[1].item() for d in (-1e-5, 1e-5)]
    assert labels == [1, 0]
    with pytest.raises(ValueError, match="nms_metric"):
        build_model(model_zoo.get_cfg(name, device="cpu", overrides=[*NARROW_YAML, "MODEL.RPN.NMS_METRIC=ndw"]))


@pytest.mark.parametrize("name", YAML)
def test_yaml_and_lazy_twin_are_the_same_network(name):
    """Names and shapes of all weights of the native YAML and of the lazy config."""
    cfg = model_zoo.get_cfg(name, device="cpu")
    dataset, twin = cfg.DATASETS.TRAIN[0].partition("_")[0], name.removeprefix("yaml/").removesuffix(".yaml")
    names = [f"{dataset}/{twin}", f"{dataset}/{twin}_1x"]
    lazy = instantiate(load_config(next(n for n in names if n in LAZY)).model)
    yaml = build_model(cfg)
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
    """docs/papers/rfla.md#settings-for-ai-tod and docs/papers/efpn_bs.md#the-starred-detectors."""
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


def test_experiments_read_like_a_sentence():
    """A title and an expression, without repeated consequences; every name belongs to one experiment."""
    configs = [find_config(name) for name in LAZY]
    assert len({(config.name, config) for config in configs}) == len({config.name for config in configs}) == len(LAZY)
    for path in {config.path for config in configs}:
        assert not re.search(r"output_dir|\bimages=|^from \.\w", path.read_text(), flags=re.MULTILINE), path
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                assert ast.get_docstring(node), (path, node.name)
                assert node.end_lineno - node.lineno < 14, (path, node.name)


def test_a_grid_has_each_experiment_once_for_each_dataset():
    config = find_config("visdrone/cascade_rcnn_r50_fpn_rfla_1x")
    assert (config.path.name, config.function, config.dataset) == (
        "rcnn.py",
        "cascade_rcnn_r50_fpn_rfla_1x",
        "visdrone",
    )
    assert find_config(str(config)) == config
    assert config_title(config.name) == "Cascade R-CNN with RFLA on VisDrone-DET."
    cfg = load_config(config)
    assert cfg.model.roi_heads.num_classes == 10
    assert cfg.dataloader.train.dataset.names == "visdrone_train"
    assert cfg.train.max_iter == 12 * 3236
    with pytest.raises(ConfigError, match=r"holds \d+ experiments; name one, for example .*@aitod"):
        load_config(config.path)


def test_a_file_with_experiments(tmp_path):
    """Of one experiment the file is enough; of several one is named; helpers and other styles stay what they are."""
    mine = tmp_path / "mine.py"
    mine.write_text("def a():\n    return dict(train=dict(output_dir='???'))\n\n\ndef _helper():\n    pass\n")
    assert load_config(mine).train.output_dir == "output/a"
    mine.write_text(mine.read_text() + "\n\ndef b():\n    return 3\n")
    with pytest.raises(ConfigError, match=r"holds 2 experiments; name one, for example .*mine.py:a"):
        load_config(mine)
    assert load_config(f"{mine}:a").train.output_dir == "output/a"
    with pytest.raises(ConfigError, match=r"mine.py:b must return a dict with model, dataloader, …; got int"):
        load_config(f"{mine}:b")
    with pytest.raises(ConfigError, match=r"has no experiment 'c'"):
        load_config(f"{mine}:c")
    mine.write_text("def c(:\n")
    with pytest.raises(ConfigError, match=r"mine.py: cannot read this config: SyntaxError: .*line 1"):
        load_config(mine)
    mine.write_text("def helper():\n    return 1\n\n\nmodel = dict(x=helper())\n")
    assert load_config(mine).model.x == 1


def test_names_decide_where_the_output_goes(tmp_path):
    assert load_config("aitod/yolox_m_300e").train.output_dir == "output/aitod/yolox_m_300e"
    mine = tmp_path / "mine.py"
    mine.write_text("train = dict(output_dir='???', max_iter=3)")
    assert load_config(mine).train.output_dir == "output/mine"
    assert load_config(mine, ["train.output_dir=else"]).train.output_dir == "else"


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
