from __future__ import annotations

import logging

import pytest
import yaml
from detectron2.config import instantiate

from d2tiny.config import config_yaml, load_config, save_config
from d2tiny.config.component_defaults import KEY
from d2tiny.utils.errors import ConfigError

QUICK = "quick/faster_rcnn_r18_fpn_rfla"
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


def test_a_saved_config_names_the_defaults_that_it_relies_on(saved):
    content, load = saved
    assert content[KEY][ASSIGNER] == {"ignore_iof_thresh": 0.5, "tie": "value"}  # not topk and ratio, which it sets
    assert all(name.startswith("d2tiny.") for name in content[KEY])
    assert config_yaml(load(lambda content: None)) == config_yaml(load_config(QUICK))  # and is read without them


def test_a_default_of_the_time_outlives_its_change(saved, caplog):
    _, load = saved
    caplog.set_level(logging.INFO, "d2tiny")
    logging.getLogger("d2tiny").addHandler(caplog.handler)
    try:
        cfg = load(lambda content: content[KEY][ASSIGNER].update(tie="index"))
    finally:
        logging.getLogger("d2tiny").removeHandler(caplog.handler)
    assert instantiate(cfg.model.proposal_generator.assigner).tie == "index"
    assert "keeps the defaults of its time: HLAAssigner.tie 'index' (now 'value')" in caplog.text


def test_what_the_config_sets_comes_first(saved):
    _, load = saved

    def change(content):
        content[KEY][ASSIGNER]["tie"] = "index"
        content["model"]["proposal_generator"]["assigner"]["tie"] = "value"

    assert load(change).model.proposal_generator.assigner.tie == "value"


def test_an_argument_or_component_that_is_no_more_is_left_out(saved):
    _, load = saved

    def change(content):
        content[KEY][ASSIGNER]["gone"] = 1
        content[KEY]["d2tiny.modeling.gone.Gone"] = {"tie": 2}

    assert config_yaml(load(change)) == config_yaml(load_config(QUICK))


@pytest.mark.parametrize("record", [3, [1], {ASSIGNER: 1}])
def test_a_broken_record_is_told(saved, record):
    _, load = saved
    with pytest.raises(ConfigError, match=rf"config\.yaml: {KEY} must map each component"):
        load(lambda content: content.update({KEY: record}))


def test_a_config_of_before_has_no_record(saved):
    _, load = saved
    assert config_yaml(load(lambda content: content.pop(KEY))) == config_yaml(load_config(QUICK))
