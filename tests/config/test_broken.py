"""Broken and malicious configs: the file, the line and what is wrong; nothing but a ``.py`` config is run."""

from __future__ import annotations

import builtins
import random

import pytest

from d2tiny import model_zoo
from d2tiny.cli.train import train_main
from d2tiny.config import config_yaml, load_config, validate_config
from d2tiny.config.files import find_config
from d2tiny.config.native import is_yacs, lazy_from_yacs
from d2tiny.engine.run import build
from d2tiny.utils.errors import ConfigError, D2TinyError
from tests.helpers import ROOT

LAZY = "quick/faster_rcnn_r18_fpn_rfla"
NATIVE = sorted((ROOT / "configs").rglob("*.yaml"))[0]
TOP = "MODEL:\n  MASK_ON: false\n"


def load(path):
    config = find_config(path)
    cfg = lazy_from_yacs(config.path, []) if is_yacs(config.path) else load_config(config)
    validate_config(cfg, datasets=False)
    return cfg


TEXTS = [
    ("a.yaml", "train:\n  max_iter: [1\nmodel: 2\n", r"a\.yaml, line 3, column \d"),
    ("a.yaml", "MODEL:\n\tMASK_ON: false\n", r"a\.yaml, line 2"),
    ("a.yaml", "", r"a\.yaml is empty"),
    ("a.yaml", "- 1\n", r"a\.yaml holds a list"),
    ("a.yaml", "train: &a [*a]\n", r"a\.yaml.*contains itself"),
    ("a.yaml", "a: &a {<<: *a}\n", r"a\.yaml.*contains itself"),
    ("a.yaml", "train: 5\nmodel: {}\n", "'train' must hold keys, got 5"),
    ("a.yaml", f"train: {'[' * 3000}", r"a\.yaml"),
    ("a.yaml", f"train: {'9' * 5000}\n", r"a\.yaml"),
    ("a.yaml", TOP + "SOLVER:\n  BASE_LR: fast\n", r"a\.yaml.*"),
    ("a.yaml", TOP + "SOLVR:\n  BASE_LR: 1\n", r"a\.yaml.*SOLVR"),
    ("a.yaml", TOP + "SOLVER: null\n", r"a\.yaml"),
    ("a.yaml", TOP + "_BASE_: a.yaml\n", "leads back to this file"),
    ("a.yaml", TOP + "_BASE_: gone.yaml\n", r"gone\.yaml: cannot read"),
    ("a.yaml", TOP + "_BASE_: {a: 1}\n", "_BASE_ names a file"),
    ("a.py", "model = 1\ntrain = dict(\n", r"a\.py, line 2|a\.py.*line 2"),
    ("a.py", "x = 1\nmodel = x / 0\n", r"a\.py, line 2\): ZeroDivisionError"),
    ("a.py", "model = 1\nraise SystemExit(3)\n", r"a\.py, line 2\): SystemExit"),
    ("a.py", "from .gone import model\n", r"gone\.py does not exist"),
    ("a.py", "def one():\n    return {}['model']\n", r"a\.py, line 2\): KeyError"),
    ("a.py", "def one():\n    return 5\n", "must return a dict"),
    ("a.py", "DATASETS = 3\ndef one(dataset):\n    pass\n", r"a\.py, line 1: DATASETS must be"),
]


@pytest.mark.parametrize(("name", "text", "words"), TEXTS)
def test_a_broken_config_is_told_with_its_place(tmp_path, monkeypatch, name, text, words):
    (tmp_path / name).write_text(text)
    before = builtins.__import__
    with pytest.raises(ConfigError, match=words):
        load(tmp_path / name)
    assert builtins.__import__ is before
    assert train_main(["--config-file", str(tmp_path / name), "train.device=cpu"]) == 2


@pytest.mark.parametrize("kind", ["lazy", "saved", "native", "base"])
def test_tags_of_python_are_not_run(tmp_path, kind):
    evil = f"!!python/object/apply:os.mkdir ['{tmp_path / 'executed'}']"
    texts = {
        "lazy": f"model: {evil}\n",
        "saved": config_yaml(load_config(LAZY)) + f"more: {evil}\n",
        "native": f"{TOP}OUTPUT_DIR: {evil}\n",
        "base": f"{TOP}_BASE_: base.yaml\n",
    }
    (tmp_path / "base.yaml").write_text(texts["native"])
    (tmp_path / "a.yaml").write_text(texts[kind])
    for door in (load, lambda path: model_zoo.get_cfg(path, device="cpu")):
        with pytest.raises(ConfigError, match=r"line \d+.*!!python/object/apply:os\.mkdir would run code"):
            door(tmp_path / "a.yaml")
    assert not (tmp_path / "executed").exists()


def test_aliases_cannot_fill_the_memory(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="repeat themselves too often"):
        load(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.max_iter=???", r"\?\?\? stands for a value that is missing"),
        ("train.hooks=[{a: '???'}]", r"\?\?\? stands for"),
        ("train.max_iter=${nope}", r"train\.max_iter: .*'nope' not found"),
        ("train.max_iter=${nope:3}", "train.max_iter: .*nope"),
        ("train.max_iter=${div:1,0}", "train.max_iter: .*by zero"),
        ("train.max_iter='${'", "train.max_iter"),
        ("dataloader.train.total_batch_size=${train.nope}", "total_batch_size: .*nope"),
    ],
)
def test_values_that_stand_for_nothing(override, words):
    with pytest.raises(ConfigError, match=words):
        load_config(LAZY, [override])


@pytest.mark.parametrize("ratios", ["[0.0,1.0,2.0]", "[-1.0,1.0,2.0]", "[x,1.0,2.0]"])
def test_a_ratio_of_zero_is_told_with_its_key(ratios):
    key = "model.proposal_generator.anchor_generator"
    with pytest.raises(ConfigError, match=key):
        build(load_config("aitod/faster_rcnn_r50_fpn_maxiou_1x", [f"{key}.aspect_ratios={ratios}"]), key)


def test_names_may_be_paths(tmp_path):
    assert model_zoo.get_cfg(NATIVE, device="cpu").MODEL.DEVICE == "cpu"
    path = tmp_path / "config.yaml"
    path.write_text(config_yaml(load_config(LAZY)))
    assert config_yaml(model_zoo.get_config(path)) == path.read_text()


PIECES = [
    "{",
    "}",
    "[",
    ":",
    "\t",
    "- ",
    "!!python/tuple ",
    "&a ",
    "*a",
    "${",
    "???",
    "0",
    "-1",
    "null",
    "\x00",
    "é",
    ".nan",
]


def test_mutated_configs_load_or_are_refused(tmp_path):
    """300 mutations of a saved lazy config and of a native one."""
    generator = random.Random(0)
    texts = [config_yaml(load_config(LAZY)), NATIVE.read_text()]
    for number in range(300):
        text = list(texts[number % 2])
        for _ in range(generator.choice([1, 1, 2, 5])):
            start = generator.randrange(len(text))
            end = start + generator.randrange(30)
            text[start : generator.choice([start, end])] = generator.choice(PIECES)
        path = tmp_path / "a.yaml"
        path.write_text("".join(text))
        try:
            load(path)
        except D2TinyError as err:
            assert str(err)
