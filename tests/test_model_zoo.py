"""`model_zoo.get_cfg` with published weights, on made-up ones."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from d2tiny import model_zoo
from d2tiny.config import save_config
from d2tiny.engine.checkpoint import TinyCheckpointer
from d2tiny.inference.torch_detector import TorchDetector
from d2tiny.utils import published
from d2tiny.utils.checkpoint_files import check_checkpoint, read_checkpoint
from d2tiny.utils.errors import CheckpointError, ConfigError
from d2tiny.utils.weights import load_weights
from tests.helpers import ROOT
from tests.helpers.published import CLASSES, CONFIG, random_model, write_manifest, write_model, write_weights

GRID = "aitod/cascade_rcnn_r50_fpn_rfla_1x"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    detectors = [write_model(folder, name) for name in ("first", "second")]
    grid = write_model(folder, "grid", config=GRID)
    unknown = write_weights(folder, "later", config="quick/of_next_year")
    return write_manifest(folder, *detectors, grid, unknown, default="second")


@pytest.fixture(autouse=True)
def nothing_shipped(library, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "shipped_folder", lambda: tmp_path / "none")
    monkeypatch.setenv("D2TINY_WEIGHTS", str(library))


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        ({}, "second.pth"),
        ({"name": CONFIG}, "first.pth"),
        ({"name": ROOT / "configs" / "quick" / "yolo.py:yolo11_n"}, "first.pth"),
        ({"weights": "first"}, "first.pth"),
        ({"name": CONFIG, "weights": "d2tiny://second"}, "second.pth"),
    ],
)
def test_what_get_cfg_takes(library, caplog, arguments, file):
    with caplog.at_level(logging.INFO):
        cfg = model_zoo.get_cfg(device="cpu", **arguments)
    assert str(library / file) == cfg.MODEL.WEIGHTS
    assert cfg.D2TINY.CLASSES == CLASSES
    assert f"{CONFIG}: weights d2tiny://{file.removesuffix('.pth')}" in caplog.text
    assert "random" not in caplog.text


@pytest.mark.parametrize("arguments", [{"name": "quick/yolox_s"}, {"name": CONFIG, "weights": ""}])
def test_no_weights_are_said_to_be_random(caplog, arguments):
    cfg = model_zoo.get_cfg(device="cpu", **arguments)
    assert cfg.MODEL.WEIGHTS == ""
    assert cfg.D2TINY.CLASSES == []
    assert "no weights given, so predictions will be random" in caplog.text


def test_a_file_of_the_user_is_taken_as_it_is(library, caplog):
    cfg = model_zoo.get_cfg(CONFIG, library / "first.pth", device="cpu")
    assert str(library / "first.pth") == cfg.MODEL.WEIGHTS
    assert cfg.D2TINY.CLASSES == []
    with pytest.raises(ConfigError, match=r"needs the name of a config for weights=.*Published weights: first, second"):
        model_zoo.get_cfg(weights=library / "first.pth")


def test_weights_of_a_training_know_their_classes_and_their_config(tmp_path, library):
    """What a training leaves in a folder: weights with names, and config.yaml beside them."""
    names = [f"kind {i}" for i in range(3)]
    config = model_zoo.get_config(CONFIG, ["model.head.num_classes=3"])
    weights = tmp_path / "run" / "model_final.pth"
    checkpointer = TinyCheckpointer(instantiate(config.model), str(weights.parent))
    checkpointer.classes = names
    weights.parent.mkdir()
    checkpointer.save("model_final", resumable=False)
    with pytest.raises(ConfigError, match="needs the name of a config"):
        model_zoo.get_cfg(weights=weights)
    save_config(config, weights.parent / "config.yaml")
    cfg = model_zoo.get_cfg(weights=weights, device="cpu")
    assert names == cfg.D2TINY.CLASSES
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert str(weights.parent / "config.yaml") == cfg.D2TINY.LAZY_CONFIG
    assert TorchDetector(cfg).classes == names
    # A model of other classes does not get these names; published weights keep theirs.
    assert model_zoo.get_cfg(CONFIG, weights, device="cpu").D2TINY.CLASSES == []
    assert model_zoo.get_cfg(weights="first", device="cpu").D2TINY.CLASSES == CLASSES


@pytest.mark.parametrize("classes", ["abc", [1, 2], {"a": 1}, None])
def test_other_entries_of_a_checkpoint_are_no_names(tmp_path, classes):
    path = tmp_path / "w.pth"
    torch.save({"model": {"a": torch.zeros(2)}, "classes": classes}, path)
    assert check_checkpoint(path) == ()


def test_a_config_of_the_user_with_a_known_name_has_no_published_weights(tmp_path, library):
    """The name of a grid's experiment comes from its dataset, also in a copy of the folder, which may be changed."""
    shutil.copytree(ROOT / "configs", tmp_path / "mine")
    assert str(library / "grid.pth") == model_zoo.get_cfg(GRID, device="cpu").MODEL.WEIGHTS
    copy = f"{tmp_path}/mine/grids/rcnn.py:{GRID.split('/')[1]}@aitod"
    assert model_zoo.get_cfg(copy, device="cpu").MODEL.WEIGHTS == ""


def test_weights_of_a_later_version(library):
    with pytest.raises(ConfigError, match="quick/of_next_year, which this d2tiny does not have; upgrade it"):
        model_zoo.get_cfg(weights="later")


def test_nothing_published_and_nothing_named(monkeypatch):
    monkeypatch.delenv("D2TINY_WEIGHTS")
    with pytest.raises(ConfigError, match=r"get_cfg needs the name of a config for weights=None\.$"):
        model_zoo.get_cfg()


def test_half_precision_is_loaded_into_float32(library):
    """By Detectron2's predictor and by our reader: within 2⁻¹¹ of the weights, small tensors exactly."""
    half = read_checkpoint("d2tiny://first")["model"]
    assert {value.dtype for name, value in half.items() if value.ndim == 4} == {torch.float16}
    assert not [name for name, value in half.items() if value.ndim == 1 and value.dtype == torch.float16]
    own = random_model().state_dict()
    by_reader = build_model(model_zoo.get_cfg(CONFIG, weights="", device="cpu")).eval()
    load_weights(by_reader, "first")
    predictor = DefaultPredictor(model_zoo.get_cfg(weights="first", device="cpu"))
    for model in (by_reader, predictor.model):
        state = model.state_dict()
        assert state.keys() == own.keys()
        for name, value in own.items():
            assert state[name].dtype == value.dtype
            limit = 2**-11 * value.abs() + 2**-24 if value.ndim > 1 else torch.zeros(())
            assert bool(((state[name] - value).abs() <= limit).all()), name


def test_weights_of_another_number_of_classes_are_refused():
    cfg = model_zoo.get_cfg(CONFIG, overrides=["model.head.num_classes=3"], device="cpu")
    with pytest.raises(CheckpointError, match="number of classes"):
        DefaultPredictor(cfg)
