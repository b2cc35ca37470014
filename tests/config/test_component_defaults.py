from __future__ import annotations

import functools
import logging
import math

import pytest
import torch
import yaml
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes
from omegaconf import open_dict

from d2tiny import model_zoo
from d2tiny.config import apply_overrides, config_yaml, load_config, resume_config, save_config, validate_config
from d2tiny.config.component_defaults import KEY, _tell
from d2tiny.inference.run import config_record
from d2tiny.modeling.assigners import HLAAssigner
from d2tiny.utils.errors import ConfigError

QUICK = "quick/faster_rcnn_r18_fpn_rfla"
MINE = """
from d2tiny.config import load_config
cfg = load_config("quick/faster_rcnn_r18_fpn_rfla")
model, dataloader, optimizer, lr_multiplier, train = (
    cfg.model, cfg.dataloader, cfg.optimizer, cfg.lr_multiplier, cfg.train)
optimizer._set_flag(["struct", "allow_objects"], [False, True])
optimizer.note = lambda: 1
"""
ASSIGNER = "d2tiny.modeling.assigners.hla.HLAAssigner"


@pytest.fixture
def saved(tmp_path):
    """A saved config, and a function that changes what it records and loads it."""
    path = tmp_path / "config.yaml"
    save_config(load_config(QUICK), path)
    content = yaml.safe_load(path.read_text())

    def load(change):
        change(content)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return load_config(path)

    return content, load


@pytest.fixture
def messages(caplog, tmp_path):
    """What d2tiny logs, and ``path``, the file of ``saved``."""
    _tell.cache_clear()
    logging.getLogger("d2tiny").addHandler(caplog.handler)
    caplog.path = tmp_path / "config.yaml"
    yield caplog
    logging.getLogger("d2tiny").removeHandler(caplog.handler)


def test_a_saved_config_names_the_defaults_that_it_relies_on(saved):
    content, load = saved
    assert content[KEY][ASSIGNER] == {"ignore_iof_thresh": 0.5, "tie": "value"}  # not topk and ratio, which it sets
    assert all(name.startswith("d2tiny.") for name in content[KEY])
    assert config_yaml(load(lambda content: None)) == config_yaml(load_config(QUICK))  # and is read without them


def test_a_default_of_the_time_outlives_its_change(saved, messages):
    _, load = saved
    cfg = load(lambda content: content[KEY][ASSIGNER].update(tie="index"))
    assert instantiate(cfg.model.proposal_generator.assigner).tie == "index"
    assert "keeps the defaults of its time: HLAAssigner.tie 'index' (now 'value')." in messages.text
    assert load_config(messages.path).model.proposal_generator.assigner.tie == "index"
    assert len({record.created for record in messages.records}) == 1  # once, however many read it


@pytest.mark.parametrize(("former", "today"), [(1, True), (1.0, 1), (math.nan, 0.5)])
def test_values_that_python_takes_for_equal_differ(saved, monkeypatch, former, today):
    _, load = saved
    monkeypatch.setitem(HLAAssigner.__init__.__kwdefaults__, "tie", today)
    tie = load(lambda content: content[KEY][ASSIGNER].update(tie=former)).model.proposal_generator.assigner.tie
    assert repr(tie) == repr(former)


@pytest.mark.parametrize("today", [object(), None])
def test_a_default_is_restored_where_today_has_another_kind_or_none(saved, monkeypatch, today):
    _, load = saved
    if today is None:
        monkeypatch.delitem(HLAAssigner.__init__.__kwdefaults__, "tie")
    else:
        monkeypatch.setitem(HLAAssigner.__init__.__kwdefaults__, "tie", today)
    assert load(lambda content: None).model.proposal_generator.assigner.tie == "value"


def test_what_the_config_sets_comes_first(saved):
    _, load = saved

    def change(content):
        content[KEY][ASSIGNER]["tie"] = "index"
        content["model"]["proposal_generator"]["assigner"]["tie"] = "value"

    assert load(change).model.proposal_generator.assigner.tie == "value"


def test_an_argument_that_is_no_more_is_told(saved, messages):
    _, load = saved

    def change(content):
        content[KEY][ASSIGNER]["gone"] = 1
        content[KEY]["d2tiny.modeling.gone.Gone"] = {"tie": 2}  # of no node, so that it says nothing

    assert config_yaml(load(change)) == config_yaml(load_config(QUICK))
    assert "these arguments are no more: HLAAssigner.gone (was 1)." in messages.text


@pytest.mark.parametrize(
    "record", [3, [1], {ASSIGNER: 1}, {ASSIGNER: {"tie": {"_target_": ASSIGNER}}}, {ASSIGNER: {"tie": "${nope}"}}]
)
def test_a_broken_record_is_told(saved, record):
    _, load = saved
    with pytest.raises(ConfigError, match=rf"config\.yaml: {KEY} must map each component"):
        load(lambda content: content.update({KEY: record}))


@pytest.mark.parametrize("change", [lambda content: content.pop(KEY), lambda content: content.update({KEY: None})])
def test_a_config_may_have_no_record(saved, change):
    _, load = saved
    assert config_yaml(load(change)) == config_yaml(load_config(QUICK))


def test_a_run_goes_on_with_its_record(saved, messages):
    content, load = saved
    load(lambda content: content[KEY][ASSIGNER].update(tie="index"))
    for _ in range(2):  # what is written for the one who resumes next is the same
        cfg = load_config(QUICK, ["train.max_iter=7"])
        text = resume_config(cfg, messages.path)
        assert cfg.model.proposal_generator.assigner.tie == "index" and cfg.train.max_iter == 7
        assert yaml.safe_load(text)[KEY] == content[KEY]
        with pytest.raises(ConfigError, match="unknown key"):
            apply_overrides(cfg, ["train.max_itr=5"])
        messages.path.write_text(text)
    assert f"with other settings ({messages.path}): train.max_iter: 1000 there, 7 now." in messages.text
    told = messages.text
    resume_config(load_config(messages.path), messages.path)
    assert messages.text == told
    cfg = load_config(QUICK)
    resume_config(cfg, messages.path.with_name("none.yaml"))
    assert cfg == load_config(QUICK)


def test_what_was_recorded_stays_for_all_who_resume(saved, messages, monkeypatch):
    """Also an argument that has no default any more, that is no more, or that one of them sets."""
    content, load = saved
    load(lambda content: content[KEY][ASSIGNER].update(gone=1))
    monkeypatch.delitem(HLAAssigner.__init__.__kwdefaults__, "tie")
    for overrides in ([], ["model.proposal_generator.assigner.tie=index"], []):
        cfg = load_config(QUICK, overrides)
        messages.path.write_text(resume_config(cfg, messages.path))
        assert yaml.safe_load(messages.path.read_text())[KEY] == content[KEY]
        assert cfg.model.proposal_generator.assigner.tie == ("index" if overrides else "value")


def test_callables_of_a_config_stay_when_it_resumes(saved, messages):
    """Detectron2 makes objects of ``_target_`` alone: a class that is an argument must not become its name."""
    _, load = saved
    load(lambda content: content[KEY][ASSIGNER].update(tie="index"))
    cfg = load_config(QUICK)
    with open_dict(cfg.model):
        cfg.model.block_class = HLAAssigner
    resume_config(cfg, messages.path)
    assert cfg.model.block_class is HLAAssigner and cfg.model.proposal_generator.assigner.tie == "index"


@pytest.mark.parametrize("text", ["", "a: [", "3", f"{KEY}: 3\nmodel: {{a: 1}}\n"])
def test_a_broken_config_of_a_run_stops_nobody_who_resumes(messages, text):
    messages.path.write_text(text)
    cfg = load_config(QUICK)
    assert KEY in yaml.safe_load(resume_config(cfg, messages.path))
    assert cfg == load_config(QUICK)
    assert "goes on with today's defaults" in messages.text
    messages.path.write_text("note: 2024-01-01\n")
    resume_config(cfg, messages.path)
    assert 'note: "2024-01-01" there, not set now' in messages.text


def test_what_detectron2_loads_is_refused_with_its_record(saved, messages):
    with pytest.raises(ConfigError, match=rf"has {KEY}, which d2tiny\.config\.load_config reads"):
        config_yaml(LazyConfig.load(str(messages.path)))


def test_what_has_no_name_to_import_is_not_saved(tmp_path):
    cfg = load_config(QUICK)
    with open_dict(cfg.train):
        cfg.train.note = Boxes.cat  # a class method, a new object each time
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml").train.note == "detectron2.structures.boxes.Boxes.cat"
    for value in (functools.partial(int, "3"), type("Mine", (), {"__module__": "builtins"})):
        with open_dict(cfg.train):
            cfg.train.note = value
        with pytest.raises(ConfigError, match=r"train\.note: .* cannot be saved as YAML"):
            config_yaml(cfg)


@pytest.mark.parametrize(
    "name", ["quick/yolov5_s", "quick/scalebridge_lite0_sparse", "quick/detectors_r18_efpnbs_rfla"]
)
def test_every_default_may_be_set(name, tmp_path):
    """What a component gives to its base itself must not be an argument that a config can set."""
    cfg = load_config(name)
    save_config(cfg, tmp_path / "config.yaml")
    content = yaml.safe_load((tmp_path / "config.yaml").read_text())
    record = content.pop(KEY)

    def fill(node):
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            fill(value)
        if isinstance(node, dict):
            node.update({k: v for k, v in record.get(node.get("_target_"), {}).items() if k not in node})

    fill(content)
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    full = load_config(tmp_path / "all.yaml")
    validate_config(full, datasets=False)
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    torch.manual_seed(0)
    again = instantiate(full.model).state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in model.state_dict().items())


def test_results_of_another_config_are_not_mixed(saved, messages):
    """What tells the run over scenes from others is what the file says, not its name."""
    _, load = saved

    def record():
        return config_record(model_zoo.get_cfg(messages.path, "", device="cpu"))["config"]

    first = record()
    assert record() == first
    load(lambda content: content["model"]["proposal_generator"].update(nms_thresh=0.5))
    second = record()
    load(lambda content: content[KEY][ASSIGNER].update(tie="index"))
    assert len({first, second, record()}) == 3


def test_a_config_that_yaml_cannot_hold_still_predicts(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    first = config_record(model_zoo.get_cfg(path, "", device="cpu"))
    path.write_text(f"{MINE}# another one\n")
    assert first != config_record(model_zoo.get_cfg(path, "", device="cpu"))
