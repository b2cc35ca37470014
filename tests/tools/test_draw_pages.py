"""The pictures of pages: what is drawn of a scene, and how a page is photographed."""

from __future__ import annotations

import runpy
import shutil

import cv2
import numpy as np
import pytest

from d2tiny.synthetic import render_scene
from d2tiny.utils.errors import D2TinyError
from tests.helpers import ROOT

TOOL = runpy.run_path(str(ROOT / "tools" / "draw_pages.py"))
CHROMIUM = next((shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")), None)


def test_the_window_with_most_objects():
    """Three of the four centres lie within 20 x 10 px of the second one."""
    centres = np.array([[100.0, 100], [50, 50], [55, 52], [45, 46]])
    assert TOOL["_densest"](centres, 20, 10) == (40, 45)


def test_a_turned_scene_is_drawn_north_up(tmp_path, monkeypatch):
    """The published detector finds vehicles on a drawn scene; their outlines are drawn, and turned."""
    pytest.importorskip("rasterio")
    image = render_scene(5, height=160, width=200).image
    cv2.imwrite(str(tmp_path / "s2_genoa.png"), image[:, :, ::-1])
    raster, objects = TOOL["predict_scene"](tmp_path / "s2_genoa.png", tmp_path, 30.0, first=20)
    assert (raster.name, raster.with_suffix(".html").is_file()) == ("genoa.tif", True)
    drawn = TOOL["draw_map"](raster, objects, side=600)
    assert drawn.dtype == np.uint8
    assert drawn.shape[1] >= 300
    outlines = (np.abs(drawn.astype(int) - (255, 200, 0)) < 40).all(axis=2)
    assert outlines.sum() > 50


def test_pages_are_photographed(tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    page.write_text('<body style="margin:0;background:#0000ff"></body>')
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    picture = TOOL["photograph"](page, 120, 90)
    assert picture.shape == (90, 120, 3)
    assert picture[45, 60].tolist() == [0, 0, 255]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(D2TinyError, match="No chromium"):
        TOOL["photograph"](page, 120, 90)
