"""`import d2tiny` is cheap, and registers everything as soon as Detectron2 is imported, in whatever order."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import d2tiny
from d2tiny.registration import NEEDS_DETECTRON2

ROOT = Path(d2tiny.__file__).resolve().parents[1]
ENV = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}


def python(code, *, cwd=None):
    result = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], cwd=cwd, env=ENV, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result


def test_import_of_d2tiny_alone_is_light():
    python(
        "import d2tiny, sys; assert d2tiny.__version__\n"
        "assert not {'torch', 'detectron2', 'numpy'} & set(sys.modules)\n"
        "assert {'model_zoo', 'add_d2tiny_config', 'register_coco_like'} <= set(dir(d2tiny))"
    )


USES = """
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, BACKBONE_REGISTRY
assert META_ARCH_REGISTRY.get("TinyDINO").__module__ == "d2tiny.modeling.meta_arch.dino"
assert "TinyStandardROIHeads" in ROI_HEADS_REGISTRY and "build_resnet_efpnbs_backbone" in BACKBONE_REGISTRY
from detectron2.data import DatasetCatalog
assert "aitod_train" in DatasetCatalog.list()
from d2tiny.utils.errors import DatasetError
try:
    DatasetCatalog.get("aitod_train")
except DatasetError as err:
    assert "'aitod_train' needs its annotations at" in str(err)
    assert str(err).endswith("See datasets/README.md.")
else:
    raise AssertionError("no data are here")
from d2tiny import model_zoo, register_coco_like, add_d2tiny_config
assert "quick/yolox_s" in model_zoo.list_configs()
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["import d2tiny", "import detectron2\nimport d2tiny", "from d2tiny import model_zoo"])
def test_everything_is_registered(first, tmp_path):
    """And the warnings that Detectron2 would cause on every start are silent, unless it was imported first."""
    result = python(f"{first}\n{USES}", cwd=tmp_path)
    assert "torch.jit.script" not in result.stderr


@pytest.mark.slow
def test_any_module_may_be_imported_first(tmp_path):
    """Modules that import Detectron2 while their own names do not exist yet. One process, forked for each."""
    code = f"""
import os, sys
import torch, torchvision, numpy, cv2, numba, scipy.optimize, omegaconf, hydra, msgspec, PIL.Image, matplotlib
wrong = []
for name in {sorted(NEEDS_DETECTRON2)!r}:
    child = os.fork()
    if child == 0:
        try:
            __import__(name)
            from detectron2.data import DatasetCatalog
            from detectron2.modeling import META_ARCH_REGISTRY
            assert "TinyDINO" in META_ARCH_REGISTRY and "dior_test" in DatasetCatalog.list()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        wrong.append(name)
assert not wrong, wrong
"""
    python(code, cwd=tmp_path)


def module_level_imports(path):
    nodes = ast.parse(path.read_text()).body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_the_list_of_modules_that_need_detectron2_is_complete():
    for path in (ROOT / "d2tiny").rglob("*.py"):
        if any(name.split(".")[0] == "detectron2" for name in module_level_imports(path)):
            parts = ("d2tiny", *path.relative_to(ROOT / "d2tiny").with_suffix("").parts)
            assert any(".".join(parts[:n]) in NEEDS_DETECTRON2 for n in range(1, len(parts) + 1)), path


def test_a_missing_detectron2_is_named_with_the_command_that_installs_it(tmp_path):
    """At the import of what needs it; the rest works."""
    code = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "detectron2" else find(name, package)
import d2tiny
from d2tiny.evaluation import get_protocol
for line in ("from d2tiny import model_zoo", "from d2tiny.modeling import TinyDINO", "import d2tiny.layers.conv",
             "from d2tiny.config import load_config", "d2tiny.register_coco_like"):
    try:
        exec(line)
    except ImportError as err:
        assert "tools/install_detectron2.py" in str(err), line
    else:
        raise AssertionError(line)
from d2tiny.cli import main
raise SystemExit(main(["config", "quick/yolox_s"]) != 2)
"""
    assert "tools/install_detectron2.py" in python(code, cwd=tmp_path).stderr


@pytest.mark.slow
def test_objects_and_functions_can_be_pickled_across_processes(tmp_path):
    """A spawned process imports the module of the function only; everything is registered there all the same."""
    (tmp_path / "spawned.py").write_text("""
import multiprocessing
from d2tiny.data.datasets import find_source

def main():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(find_source, ("dior_test",)).name == "dior_test"

if __name__ == "__main__":
    main()
""")
    result = subprocess.run([sys.executable, "spawned.py"], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
