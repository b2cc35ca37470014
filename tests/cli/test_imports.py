"""What commands import: help is fast, and those that only read files need neither torch nor Detectron2."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from d2tiny.cli import COMMANDS
from tests.helpers.cli import EXAMPLES

HEAVY = ("torch", "detectron2", "cv2", "numba", "numpy", "scipy", "matplotlib", "omegaconf", "msgspec", "PIL")
SCRIPT = """
import os, sys
from d2tiny.cli import main
try:
    code = main(sys.argv[2:])
except SystemExit as leave:
    code = leave.code
found = [name for name in sys.argv[1].split(",") if name in sys.modules]
print(f"\\nCPU {sum(os.times()[:2]):.2f} CODE {code} FOUND {found}", file=sys.stderr)
"""


def imported(names, words, cwd=None):
    """Run a command in a fresh interpreter: processor seconds, exit code, which of the modules were imported."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, ",".join(names), *words]
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("CPU"), result.stderr
    _, seconds, _, code, _, found = last.split(maxsplit=5)
    return float(seconds), int(code), found


@pytest.mark.parametrize("words", [["--help"], ["--version"], [], ["chek"], *([name, "--help"] for name in COMMANDS)])
def test_help_and_mistakes_import_nothing_heavy(words):
    _, code, found = imported(HEAVY, words)
    assert code == (0 if words and words[-1].startswith("--") else 2)
    assert found == "[]"


@pytest.mark.parametrize(
    "line",
    [
        "evaluate a.json",
        "evaluate a.json b.json --protocol aitodd",
        "evaluate a.json b.json --max-dets many",
        "train",
        "predict",
        "convert visdron a -o b.json",
        "tile a.json --images i -o o --size big",
        "anchors a.json --levels x",
    ],
)
def test_wrong_arguments_import_nothing_heavy(line):
    assert imported(HEAVY, line.split())[1:] == (2, "[]")


def test_help_takes_a_third_of_a_second():
    """The best of some, because the machine does other things too."""
    assert min(imported((), ["--help"])[0] for _ in range(5)) <= 0.3


LIGHT = {name: EXAMPLES[name].split()[1:] for name in ("evaluate", "check", "draw", "convert", "tile", "anchors")}
LIGHT["evaluate without a report"] = EXAMPLES["evaluate"].split(" --images")[0].split()[1:]
LIGHT["stats"] = [*EXAMPLES["stats"].split()[1:], "--coverage", ""]
LIGHT["check of native files"] = ["check", "VisDrone2019-DET-val", "--format", "visdrone"]
LIGHT["zoo"] = ["zoo"]


@pytest.mark.parametrize("name", LIGHT)
def test_commands_on_files_import_neither_torch_nor_detectron2(folder, name):
    assert imported(("torch", "detectron2"), LIGHT[name], cwd=folder)[1:] == (0, "[]")


def test_evaluation_without_a_report_draws_nothing(folder):
    found = imported(("cv2", "matplotlib", "PIL"), LIGHT["evaluate without a report"], cwd=folder)[2]
    assert found == "[]"
