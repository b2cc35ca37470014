"""The page about whole scenes stays true."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from d2tiny.cli import command_parser
from d2tiny.inference.writers import FORMATS
from tests.helpers import ROOT
from tests.helpers.cli import parsed
from tests.helpers.docs import blocks, commands
from tests.helpers.squares import predictor, random_boxes, scene, squares_cfg

PAGE = (ROOT / "docs" / "scenes.md").read_text()


def test_commands_options_and_formats():
    lines = [line for line in commands(PAGE) if line.startswith("d2tiny ")]
    assert len(lines) >= 6
    for line in lines:
        parsed(line)
    known = {
        option for name in ("predict", "merge") for a in command_parser(name)._actions for option in a.option_strings
    }
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE))
    assert (
        named <= known
        and {"--bands", "--stretch", "--gsd", "--resize", "--aoi", "--resume", "--shard", "--ray"} <= named
    )
    table = PAGE.split("| `--format` |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(FORMATS)


def test_the_example_in_python(tmp_path, monkeypatch):
    """With a model of squares."""
    pytest.importorskip("rasterio")
    import cv2

    import d2tiny.inference
    from d2tiny import model_zoo
    from tests.helpers.made_rasters import geotiff

    (code,) = blocks("python", PAGE)
    monkeypatch.chdir(tmp_path)
    boxes = random_boxes(900, 850, 40)
    image = scene(900, 850, boxes)
    cv2.imwrite("scene.png", image[:, :, ::-1])
    geotiff(Path("ortho.tif"), np.ascontiguousarray(image.transpose(2, 0, 1)))
    squares_cfg()
    monkeypatch.setattr(model_zoo, "get_cfg", lambda name, weights: None)
    monkeypatch.setattr(d2tiny.inference, "TiledPredictor", lambda cfg, **options: predictor(**options)[0])
    scope = {}
    exec(compile(code, "scenes.md", "exec"), scope)
    assert len(scope["instances"]) == len(scope["found"]) == len(scope["frame"]) == 40
    assert Path("ortho.gpkg").is_file()


def test_pictures_are_small_and_drawn_by_the_script(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["draw_scenes.py", "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(ROOT / "tools" / "draw_scenes.py"), run_name="__main__")
    assert left.value.code == 0
    named = set(re.findall(r"\(images/(scenes_\w+\.jpg)\)", PAGE))
    assert {p.name for p in tmp_path.iterdir()} < named == {p.name for p in (ROOT / "docs/images").glob("scenes_*.jpg")}
    assert all((ROOT / "docs" / "images" / name).stat().st_size < 300_000 for name in named)


def test_the_picture_shows_what_merging_does():
    draw = runpy.run_path(str(ROOT / "tools" / "draw_scenes.py"))
    found = {case.title.split(":")[0]: draw["merge"](case) for case in draw["CASES"]}
    for case in draw["CASES"]:
        got, want = np.sort(found[case.title.split(":")[0]], axis=0), np.sort(case.objects, axis=0)
        np.testing.assert_allclose(got, want, atol=1)
