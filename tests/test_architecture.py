"""The layers of docs/architecture.md, read from the imports; ``ALLOWED`` is the law."""

from __future__ import annotations

import re
import runpy

import pytest

from tests.helpers import ROOT

PACKAGE = ROOT / "d2tiny"
TESTS = ROOT / "tests"
TOOL = runpy.run_path(str(ROOT / "tools" / "draw_architecture.py"))
imports, module_name, subpackage = TOOL["imports"], TOOL["module_name"], TOOL["subpackage"]

# subpackage -> what it may import besides itself; one that is not listed fails the test.
_OPS = {"utils", "ops"}
_PARTS = _OPS | {"layers", "modeling.priors", "modeling.targets", "modeling.contracts"}
_HEADS = _PARTS | {"modeling.assigners", "modeling.losses", "modeling.build"}
_MODELING = _HEADS | {
    "modeling",
    "modeling.backbone",
    "modeling.necks",
    "modeling.dense_heads",
    "modeling.transformer",
    "modeling.proposal_generator",
    "modeling.roi_heads",
    "modeling.meta_arch",
    "config",
}
_ENGINE = _MODELING | {"data", "synthetic", "evaluation", "inference", "visualization", "runtime"}
_ENGINE |= {"compat", "model_zoo"}
ALLOWED = {
    "utils": set(),
    "config": {"utils"},
    "compat": {"utils"},
    "ops": {"utils"},
    "layers": {"utils"},
    "modeling.priors": _OPS,
    "modeling.targets": _OPS,
    "modeling.contracts": {"modeling.priors"},
    "modeling.assigners": _OPS | {"modeling.priors", "modeling.contracts"},
    "modeling.losses": _OPS,
    "modeling.backbone": {"utils", "layers", "modeling.contracts"},
    "modeling.necks": _OPS | {"layers", "modeling.contracts"},
    "modeling.build": _OPS
    | {"layers"}
    | {f"modeling.{part}" for part in ("backbone", "necks", "assigners", "losses", "contracts")},
    "modeling.proposal_generator": _HEADS,
    "modeling.roi_heads": _HEADS,
    "modeling.dense_heads": _HEADS,
    "modeling.transformer": _HEADS,
    "modeling.meta_arch": _MODELING | {"visualization"},
    "modeling": _MODELING,
    "visualization": {"utils"},
    "data": {"utils", "visualization"},
    "synthetic": {"utils", "data"},
    "evaluation": {"utils", "data", "visualization"},
    "runtime": {"utils"},
    "inference": _MODELING | {"data", "visualization", "runtime"},
    "model_zoo": _MODELING,
    "engine": _ENGINE,
    "export": _ENGINE,
    "analysis": _MODELING | {"model_zoo"},
    "registration": {"utils", "modeling", "data"},
    "cli": _ENGINE | {"engine", "analysis", "export"},
    "__main__": {"cli"},
}


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers(path):
    module = module_name(path, PACKAGE)
    here = subpackage(module)
    if not here:
        return  # the package itself registers everything
    assert here in ALLOWED, f"{module}: add its subpackage to ALLOWED"
    for name in imports(path):
        if name.split(".")[0] == "d2tiny" and subpackage(name):
            other = subpackage(name)
            assert other == here or other in ALLOWED[here], f"{module} must not import {name}"


def test_nobody_imports_upstreams_model_zoo_or_knows_versions():
    for path in FILES:
        names = list(imports(path))
        assert not [n for n in names if n.startswith("detectron2.model_zoo")], path
        if path.name != "compat.py":
            assert "detectron2.__version__" not in path.read_text(), path


def test_tests_share_code_through_helpers_only():
    """A test file imports `tests.helpers` and `tests.reference`, never another test file."""
    for path in sorted(TESTS.rglob("*.py")):
        for name in imports(path):
            shared = name.startswith(("tests.helpers", "tests.reference"))
            assert shared or name.split(".")[0] != "tests", f"{path} imports {name}: share it through tests/helpers"


def test_nobody_changes_the_search_path_of_modules():
    changes = re.compile(r"\bsys\.path\b\s*(=|\+=|\.\w+\(|\[)")
    for folder in (TESTS, PACKAGE, ROOT / "tools", ROOT / "benchmarks", ROOT / "configs"):
        for path in sorted(folder.rglob("*.py")):
            assert not changes.search(path.read_text()), f"{path} changes sys.path"


def test_parts_know_no_config():
    for folder in ("ops", "layers", "modeling/assigners", "modeling/losses", "modeling/necks"):
        for path in (PACKAGE / folder).rglob("*.py"):
            assert "cfg" not in path.read_text(), f"{path} knows a config"


def test_files_stay_readable():
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 450, f"{path} is too long"


@pytest.mark.slow
def test_importing_needs_no_data_and_no_gpu(tmp_path):
    """A fresh interpreter in an empty folder imports d2tiny without touching CUDA."""
    import subprocess
    import sys

    code = "import d2tiny, torch; assert not torch.cuda.is_initialized(); print(d2tiny.__version__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
