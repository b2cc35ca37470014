"""What a YAML config may call."""

from __future__ import annotations

import ast
import importlib
import re

import pytest
from detectron2.config import instantiate

from d2tiny.cli import main
from d2tiny.config import config_yaml, load_config, save_config
from d2tiny.config.files import configs_root
from d2tiny.config.targets import check_targets
from d2tiny.utils.errors import ConfigError
from tests.helpers.models import config


def write(root, target, more=""):
    part = f"{{_target_: {target}, in_features: 2, out_features: 3}}"
    (root / "a.yaml").write_text(f"model:\n  part:\n  - {part}\n{more}")
    return root / "a.yaml"


@pytest.mark.parametrize("target", ["torch.nn.Linear", "torch.nn.modules.linear.Linear", "torch.nn.NoSuchLayer"])
def test_parts_of_models_are_allowed(tmp_path, target):
    """What cannot be imported is told when the config is validated."""
    assert load_config(write(tmp_path, target)).model.part[0]._target_ == target


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.run",
        "builtins.eval",
        "shutil.rmtree",
        "torch.load",
        "torch.nn.modules.module.torch.load",  # modules that allowed ones import
        "d2tiny.data.loading.images.os.remove",
        "d2tiny.data.loading.images.Path",
        "d2tiny.utils.files.write_text",
        "detectron2.config.LazyConfig.load",
        "torch.nnx.Linear",
        "'${train.name}'",
        "'${oc.env:HOME}'",
    ],
)
def test_other_callables_are_refused_before_they_are_imported(tmp_path, target):
    path = write(tmp_path, target)
    with pytest.raises(ConfigError, match=r"a\.yaml: model\.part\.0\._target_: .*D2TINY_TARGETS=") as raised:
        load_config(path)
    assert len(str(raised.value)) < 500 + len(str(path))


@pytest.mark.parametrize("text", ["${oc.create:x}", "a ${oc.decode:${b}}", "${ oc.create : x}", "${${a}.create:x}"])
def test_nodes_are_not_made_out_of_texts(tmp_path, text):
    """They could hold a target that nobody looked at."""
    with pytest.raises(ConfigError, match=r"a\.yaml: train\.x\.0: .* makes a value out of text"):
        load_config(write(tmp_path, "torch.nn.Linear", f"train:\n  x: ['{text}']\n"))


def test_the_user_may_allow_packages(tmp_path, monkeypatch):
    (tmp_path / "mine_for_test.py").write_text("def part(**kwargs):\n    return kwargs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = write(tmp_path, "mine_for_test.part")
    with pytest.raises(ConfigError, match="D2TINY_TARGETS=mine_for_test"):
        load_config(path)
    monkeypatch.setenv("D2TINY_TARGETS", "other, mine_for_test")
    assert instantiate(load_config(path).model.part[0]) == {"in_features": 2, "out_features": 3}


def test_the_command_says_it_too(tmp_path, capsys):
    assert main(["config", str(write(tmp_path, "os.system"))]) == 2
    assert "D2TINY_TARGETS=os" in capsys.readouterr().err


def test_whatever_the_configs_of_the_zoo_call_is_allowed():
    """Names that are called lazily, ``L(Name)``, as their files import them."""
    called = 0
    for file in sorted(configs_root().rglob("*.py")):
        text = file.read_text()
        names = set(re.findall(r"\bL\((\w+)", text))
        for node in (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom) and n.module):
            for alias in node.names:
                if (alias.asname or alias.name) not in names or not node.module.startswith(("d2tiny", "detectron2")):
                    continue
                found = getattr(importlib.import_module(node.module), alias.name)
                if callable(found):
                    check_targets({"_target_": f"{found.__module__}.{found.__qualname__}"}, file)
                    called += 1
    assert called > 50


@pytest.mark.parametrize("name", ["quick/yolox_s", "quick/dino_r18", "aitod/detectors_r50_rfp_rka_1x"])
def test_saved_configs_are_read_back(tmp_path, name):
    save_config(config(name), tmp_path / "config.yaml")
    assert config_yaml(load_config(tmp_path / "config.yaml")) == config_yaml(config(name))
