"""README.md stays true: its code runs, its commands parse, its files exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from d2tiny import cli, cli_data, model_zoo
from d2tiny.config import load_config, validate_config
from d2tiny.evaluation import PROTOCOLS
from d2tiny.utils.registry import ASSIGNER_REGISTRY
from tests.helpers.docs import blocks, commands

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_predict_block(tmp_path, monkeypatch):
    """With weights and a scene at the places that it names."""
    (code,) = [b for b in blocks("python") if "DefaultPredictor" in b]
    name, weights = re.search(r'get_cfg\("(.+?)", weights="(.+?)"\)', code).groups()
    monkeypatch.chdir(tmp_path)
    Path(weights).parent.mkdir(parents=True)
    torch.save({"model": instantiate(model_zoo.get_config(name).model).state_dict()}, weights)
    cv2.imwrite("scene.png", np.zeros((64, 80, 3), np.uint8))
    scope = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["instances"].image_size == (64, 80)


def test_extend_block():
    (code,) = [b for b in blocks("python") if "CenterAssigner" in b]
    scope = {}
    exec(compile(code, "README.md", "exec"), scope)
    try:
        assigner = scope["CenterAssigner"]()
        priors = torch.tensor([[0.0, 0, 4, 4], [10, 10, 14, 14], [20, 0, 24, 4]])
        result = assigner(priors, torch.tensor([[9.0, 9, 15, 15]]), ignore_boxes=torch.tensor([[18.0, 0, 30, 9]]))
        assert result.labels.tolist() == [0, 1, -1]
        assert not assigner(priors, torch.zeros(0, 4)).labels.any()
    finally:
        ASSIGNER_REGISTRY._obj_map.pop("CenterAssigner")


def test_commands_name_what_exists():
    seen = 0
    for command in commands():
        for path in re.findall(r"(?:tools|configs)/[\w./-]+", command):
            assert (ROOT / path).exists(), command
        if "tools/train_net.py" in command or "tools/demo.py" in command:
            words = shlex.split(command)[2:]
            train = "train_net" in command
            parser = cli._train_parser() if train else cli._demo_parser()
            args = parser.parse_intermixed_args(words) if train else parser.parse_args(words)
            overrides = args.overrides if train else args.opts
            validate_config(load_config(args.config_file if train else args.config, overrides), datasets=False)
            seen += 1
    assert seen == 3


@pytest.mark.parametrize("line", [c for c in commands() if c.startswith("make ")])
def test_make_targets_exist(line):
    target = line.split()[1]
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_overrides_of_the_table_apply():
    rows = re.findall(r"^\| (?:change|swap|use mixed|choose).*?\| (.+) \|$", README, flags=re.MULTILINE)
    overrides = [o for row in rows for code in re.findall(r"`(.+?)`", row) for o in code.split() if "=" in o]
    assert len(overrides) >= 8
    for override in overrides:
        validate_config(load_config("quick/faster_rcnn_r18_fpn_rfla", [override]), datasets=False)


def test_links_and_configs_exist():
    for link in re.findall(r"\]\(([^)#]+?)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
    for name in re.findall(
        r"^\| `((?:aitod|aitodv2|visdrone|dota|dior|dtod|yaml|quick)/[\w./*]+)`", README, flags=re.MULTILINE
    ):
        assert model_zoo.list_configs(name), name


@pytest.mark.parametrize("page", ["README.md", "datasets/README.md"])
def test_commands_of_d2tiny_parse(page):
    """Those of README.md are the examples of `--help`, which test_cli_data.py runs."""
    text = (ROOT / page).read_text()
    lines = [c for c in commands(text) if c.startswith("d2tiny ")]
    lines += [c for c in re.findall(r"`(d2tiny [^`]+)`", text) if len(c.split()) > 3 and "/" not in c.split()[1]]
    lines = [c for c in lines if "FILE" not in c and " / " not in c]
    assert len(lines) >= 5
    for line in lines:
        cli_data.build_parser().parse_args(shlex.split(line)[1:])
    if page == "README.md":
        assert set(lines) == set(cli_data.EXAMPLES.values())


def test_protocols_are_all_described():
    table = re.search(r"\| protocol \| what \|(.+?)\n\n", README, flags=re.DOTALL)[1]
    assert set(
        re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines()[1:] if "|" in row))
    ) == set(PROTOCOLS)
