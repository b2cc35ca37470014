"""Detectors chosen by the images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from d2tiny.inference.choice import is_grey, kind_of
from d2tiny.inference.pixels import ArrayPixels, ReadSettings
from d2tiny.utils.errors import ConfigError


def pixels(seed=0, tint=0, share=1.0):
    """A grey image of noise; ``share`` of its rows get a red channel that is ``tint`` levels brighter."""
    grey = np.random.default_rng(seed).integers(0, 200, (50, 80), dtype=np.uint8)
    image = np.repeat(grey[:, :, None], 3, axis=2)
    image[: round(50 * share), :, 0] += tint
    return image


@pytest.mark.parametrize(
    ("tint", "share", "grey"),
    [(0, 1, True), (8, 1, True), (9, 1, False), (50, 0.02, False), (50, 0, True), (255 - 199, 1, False)],
)
def test_grey_images_may_have_the_traces_of_jpeg(tint, share, grey):
    assert is_grey(pixels(tint=tint, share=share)) == grey


@pytest.mark.parametrize("quality", [50, 95])
def test_grey_images_that_were_stored_in_colour_are_grey(tmp_path, quality):
    cv2.imwrite(str(tmp_path / "a.jpg"), pixels(), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert cv2.imread(str(tmp_path / "a.jpg"), cv2.IMREAD_UNCHANGED).ndim == 3
    assert kind_of([str(tmp_path / "a.jpg")]) == "grey"


def test_one_channel_is_grey_and_broken_files_decide_nothing(tmp_path):
    grey, red, broken = (str(tmp_path / f"{name}.png") for name in ("grey", "red", "broken"))
    cv2.imwrite(grey, pixels()[:, :, 0])
    cv2.imwrite(red, pixels(tint=50))
    Path(broken).write_bytes(b"no image")
    assert kind_of([grey, broken]) == "grey"
    assert kind_of([broken, red]) == "colour"
    assert kind_of([broken, str(tmp_path / "none.png")]) == ""
    with pytest.raises(ConfigError, match=r"grey\.png is grey and .*red\.png in colour.*--weights"):
        kind_of([grey, red])


def test_only_some_images_are_read(tmp_path, monkeypatch):
    read = []
    grey = pixels()
    monkeypatch.setattr("d2tiny.inference.choice.open_pixels", lambda path, _: read.append(path) or ArrayPixels(grey))
    names = [str(tmp_path / f"{i:03}.png") for i in range(100)]
    assert kind_of(names) == "grey"
    assert len(read) == 8
    assert {names[0], names[-1]} <= set(read)


def test_rasters_are_looked_at_as_they_will_be_read(tmp_path):
    """Bands and values that are chosen count; a scene that is too large to be decoded is looked at in windows."""
    pytest.importorskip("rasterio")
    from tests.helpers.made_rasters import geotiff

    image = np.zeros((5, 1100, 1200), np.uint16)
    image[:3] = np.random.default_rng(0).integers(0, 4000, (1, 1100, 1200))
    image[3, :300, :300] = 4000  # a colour in one corner only
    path = str(geotiff(tmp_path / "a.tif", image))
    assert kind_of([path]) == ""  # which bands are colours is not known
    assert kind_of([path], ReadSettings(bands=(3, 2, 1))) == "grey"
    assert kind_of([path], ReadSettings(bands=(4, 2, 1))) == "colour"
    assert kind_of([path], ReadSettings(bands=(5, 5, 5), stretch="0,1")) == "grey"
