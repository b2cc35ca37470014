"""The picture of docs/architecture.md is that of the imports."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "draw_architecture.py"))
# d imports everything; what it imports through b and c needs no arrow
EDGES = {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"a", "b", "c"}, "e": set(), "f": {"e", "c"}}


def test_committed_picture_is_current():
    assert TOOL["main"](["--check"]) == 0, "run python tools/draw_architecture.py"
    assert "images/architecture.png" in (ROOT / "docs" / "architecture.md").read_text()


def test_arrows_that_follow_from_others_are_left_out():
    assert TOOL["reduced"](EDGES) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"c"}, "e": set(), "f": {"e", "c"}}


def test_everything_is_above_its_imports_and_leaves_are_under_their_users():
    assert TOOL["floors"](EDGES) == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 2, "f": 3}


def test_a_circle_is_named():
    with pytest.raises(ValueError, match=r"b -> c -> b"):
        TOOL["floors"]({"a": {"b"}, "b": {"c"}, "c": {"b"}})


def test_edges_of_a_package(tmp_path):
    package = tmp_path / "d2tiny"
    for name, code in {
        "__init__.py": "from d2tiny import utils",
        "utils.py": "import os",
        "cli.py": "from d2tiny import utils\nfrom d2tiny.modeling.losses.iou import iou",
        "modeling/losses/iou.py": "import d2tiny.utils",
        "modeling/heads/__init__.py": "from d2tiny.modeling.losses import iou\nfrom d2tiny.modeling.heads.x import y",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(code)
    edges = TOOL["read_edges"](package)
    assert edges == {
        "utils": set(),
        "cli": {"utils", "modeling.losses"},
        "modeling.losses": {"utils"},
        "modeling.heads": {"modeling.losses"},
    }
    (package / "utils.py").write_text("from . import cli")
    with pytest.raises(ValueError, match="relative import"):
        TOOL["read_edges"](package)


def test_a_picture_knows_its_edges(tmp_path, capsys):
    picture = tmp_path / "picture.png"
    assert not TOOL["is_current"](picture, EDGES)
    TOOL["draw"](EDGES, picture)
    assert TOOL["is_current"](picture, EDGES)
    assert not TOOL["is_current"](picture, EDGES | {"a": {"e"}})
    with Image.open(picture) as image:
        assert image.info["Description"].splitlines()[3] == "d: a, b, c"
    assert TOOL["main"](["--check", "--output", str(picture)]) == 1
    assert "run python tools/draw_architecture.py" in capsys.readouterr().err
