"""What setup.py asks for: a runtime without PyTorch in which exported models run, extras that contain each other."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from importlib import metadata as distributions

import cv2
import pytest
import setuptools

from tests.helpers import ROOT
from tests.helpers.exported import write_onnx
from tests.helpers.squares import random_boxes, scene

HEAVY = {"torch", "torchvision", "opencv-python-headless", "numba", "scipy", "matplotlib", "rasterio", "onnx", "nncf"}


def plain(name: str) -> str:
    """A distribution's name as indexes compare it, of a requirement too."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[(]", name.strip(), maxsplit=1)[0]).lower()


@pytest.fixture(scope="module")
def setup():
    """The arguments of setup()."""
    given: dict = {}
    real, setuptools.setup = setuptools.setup, given.update
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = real
    return given


def with_dependencies(names: set[str]) -> set[str]:
    """Distributions, and those that they need."""
    found, todo = set(), {plain(name) for name in names}
    while todo:
        name = todo.pop()
        found.add(name)
        try:
            needed = distributions.requires(name) or []
        except distributions.PackageNotFoundError:
            continue
        todo |= {plain(one) for one in needed if "extra ==" not in one} - found
    return found


def test_extras_contain_each_other(setup):
    extras = {name: {plain(one) for one in listed} for name, listed in setup["extras_require"].items()}
    base = {plain(one) for one in setup["install_requires"]}
    assert not (base | extras["runtime"]) & HEAVY
    assert {"openvino", "onnxruntime"} == extras["runtime"]
    assert extras["data"] <= extras["train"] <= extras["export"] <= extras["dev"]
    assert extras["runtime"] <= extras["export"]
    assert not extras["data"] & {"torch", "torchvision"}
    assert extras["geo"] | extras["ray"] | extras["pretrained"] | extras["speed"] <= extras["dev"]


def test_every_requirement_has_a_tested_version(setup):
    """In constraints.txt, within the range of setup.py."""
    from packaging.requirements import Requirement

    pinned: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if "==" in line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pinned.setdefault(plain(name), []).append(version.partition(";")[0].strip())
    listed = [*setup["install_requires"], *(one for extra in setup["extras_require"].values() for one in extra)]
    for requirement in map(Requirement, listed):
        versions = pinned[plain(requirement.name)]
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement


# Hides what the distributions of the runtime do not contain, then runs an exported model over images.
SCRIPT = """
import sys
from importlib.machinery import PathFinder

refused, find = set(sys.argv[2].split(",")), PathFinder.find_spec

def find_others(name, path=None, target=None):
    return None if name.partition(".")[0] in refused else find(name, path, target)

PathFinder.find_spec = staticmethod(find_others)
from d2tiny.cli import main
code = main(["predict", "in", "--model", "model.onnx", "--backend", sys.argv[3], "--output", sys.argv[1], "--page"])
assert code == 0
assert main(["predict", "in/a.png", "--config", "quick/yolo11_n", "--weights", "model.onnx"]) == 2
assert main(["evaluate", "a.json", "b.json"]) == 2
"""


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_exported_models_run_with_what_the_runtime_installs(setup, tmp_path, backend):
    """Nothing else may be imported: all other distributions of this environment are hidden."""
    allowed = with_dependencies({*setup["install_requires"], *setup["extras_require"]["runtime"], "d2tiny"})
    assert not allowed & HEAVY
    modules = distributions.packages_distributions()
    refused = {name for name, owners in modules.items() if not {plain(owner) for owner in owners} & allowed}
    assert {"torch", "cv2", "numba", "detectron2", "onnx", "yaml"} <= refused
    write_onnx(tmp_path / "model.onnx")
    (tmp_path / "in").mkdir()
    for name, size in (("a", (300, 260)), ("b", (90, 80))):
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), scene(*size, random_boxes(*size, 9))[:, :, ::-1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "out"), ",".join(sorted(refused)), backend]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "2 scenes, 18 objects" in result.stdout
    assert {"a.jpg", "a.html", "detections.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert "This needs PyTorch, which is not installed: pip install 'd2tiny[train]'" in result.stderr
    assert "This needs numba, which is not installed: pip install 'd2tiny[data]'" in result.stderr
