"""What the check of a wheel refuses without installing it; `make wheel` runs all of it."""

from __future__ import annotations

import json
import runpy
import zipfile

import pytest

from tests.helpers import ROOT

TOOL = runpy.run_path(str(ROOT / "tools" / "check_wheel.py"))
MANIFEST = "d2tiny/weights/manifest.json"


def wheel(path, *, without=(), extra=()):
    """A wheel with empty files of the right names, and a manifest of one file."""
    names = {*TOOL["NEEDED"], "d2tiny/weights/some.pth", "d2tiny-1.0.dist-info/METADATA", *extra} - set(without)
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(names):
            archive.writestr(name, json.dumps({"weights": [{"file": "some.pth"}]}) if name == MANIFEST else "")
    return path


def test_files_that_it_needs_are_those_of_the_repository():
    for name in TOOL["NEEDED"]:
        assert (ROOT / name.replace("d2tiny/configs/", "configs/")).is_file(), name


def test_a_complete_wheel_passes(tmp_path):
    TOOL["check_content"](wheel(tmp_path / "d2tiny.whl"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"without": ["d2tiny/inference/viewer/page.js"]},
            r"lacks d2tiny/inference/viewer/page.js \(pages of scenes\)",
        ),
        ({"without": ["d2tiny/configs/quick/rcnn.py"]}, r"lacks d2tiny/configs/quick/rcnn.py \(configs\)"),
        ({"without": ["d2tiny/weights/some.pth"]}, r"lacks the weights some.pth of its manifest"),
        ({"extra": ["tests/test_x.py"]}, "has other packages: d2tiny-1.0.dist-info, tests"),
    ],
)
def test_a_wheel_that_lacks_or_adds_something_is_refused(tmp_path, changes, message):
    with pytest.raises(TOOL["WheelError"], match=message):
        TOOL["check_content"](wheel(tmp_path / "d2tiny.whl", **changes))


def test_a_wheel_that_cannot_be_installed_is_told(tmp_path, capsys):
    assert TOOL["main"]([str(wheel(tmp_path / "d2tiny-1.0-py3-none-any.whl"))]) == 1
    assert "pip" in capsys.readouterr().err
