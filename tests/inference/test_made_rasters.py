"""The rasters that tests are given are what they are called."""

from __future__ import annotations

import numpy as np
import pytest

from d2tiny.inference.geo import ground_resolution
from d2tiny.inference.scene import GeoReference
from tests.helpers.made_rasters import FRAME, KINDS, PIXEL, UTM_CORNER, half, make, repeat

rasterio = pytest.importorskip("rasterio")
Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")

HEIGHT, WIDTH = 80, 120
EXACT = ["utm", "geographic", "web_mercator", "rotated", "non_square", "south_up", "alpha", "mask", "gcps", "rpc"]
EXACT += ["no_crs", "tiled", "striped", "planes", "cog", "jp2", "vrt", "png"]


def picture():
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return np.stack((x * 255 // (WIDTH - 1), y * 3, (x + y) % 256)).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_what_it_is_called(tmp_path, kind):
    path, values = make(kind, picture(), tmp_path), picture()
    with rasterio.open(path) as file:
        got = file.read()
        place, crs = file.transform, file.crs
        if kind in EXACT:
            np.testing.assert_array_equal(got[:3], values)
        if kind in ("nodata", "nan"):
            mask = file.dataset_mask() > 0
            assert mask.sum() == (HEIGHT - 2 * FRAME) * (WIDTH - 2 * FRAME) and mask[FRAME, FRAME]
        if kind in ("alpha", "mask"):
            np.testing.assert_array_equal(file.dataset_mask() > 0, half(HEIGHT, WIDTH))
        if kind == "palette":
            colours = np.array([file.colormap(1)[i][:3] for i in range(256)])
            assert np.abs(colours[got[0]].transpose(2, 0, 1).astype(int) - values).mean() < 12
        if kind == "gcps":
            points, crs = file.gcps
            assert {(p.row, p.col, p.x, p.y) for p in points} >= {(0, 0, *UTM_CORNER)}
        if kind == "rpc":
            assert file.rpcs.samp_off == WIDTH / 2
        if kind in ("uint16", "twelve_bits", "eleven_bits"):
            assert got.dtype == np.uint16
            top = {"uint16": 9300, "twelve_bits": 3900, "eleven_bits": 1950}[kind]
            assert got.max() == pytest.approx(top, rel=0.01)
        assert bool(crs) == (kind not in ("rpc", "no_crs", "png", "jpeg", "turned_jpeg"))
        assert file.count == {"one_band": 1, "palette": 1, "eight_bands": 8, "alpha": 4}.get(kind, 3)
    if kind in ("utm", "geographic", "rotated", "south_up"):
        size = ground_resolution(GeoReference(crs.to_wkt(), tuple(place)[:6]), WIDTH, HEIGHT)
        assert size == pytest.approx((PIXEL, PIXEL), rel=3e-3)
    if kind == "turned_jpeg":
        with Image.open(path) as file:
            assert file.size == (HEIGHT, WIDTH)
            shown = np.asarray(ImageOps.exif_transpose(file)).transpose(2, 0, 1)
        assert np.abs(shown.astype(int) - values).mean() < 3


@pytest.mark.parametrize("tiled", [True, False])
def test_a_large_raster_repeats_the_picture(tmp_path, tiled):
    path = repeat(picture(), 300, tmp_path / "a.tif", block=64, tiled=tiled)
    with rasterio.open(path) as file:
        assert file.profile["tiled"] is tiled and file.shape == (300, 300)
        np.testing.assert_array_equal(file.read(), np.tile(picture(), (1, 4, 3))[:, :300, :300])
