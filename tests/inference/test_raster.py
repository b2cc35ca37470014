"""The pixels of every kind of raster, against what rasterio and numpy give by hand."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest

from d2tiny.inference.pixels import ArrayPixels, ReadSettings, parse_bands
from d2tiny.inference.raster import RasterPixels, open_pixels
from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers.made_rasters import (
    FRAME,
    KINDS,
    PIXEL,
    UTM,
    UTM_CORNER,
    bands_of_8,
    geotiff,
    half,
    make,
    north_up,
)
from tests.helpers.published import served

rasterio = pytest.importorskip("rasterio")

HEIGHT, WIDTH = 80, 120
WINDOW = (30, 10, 94, 74)
DEEP = ("uint16", "twelve_bits", "eleven_bits", "float", "nan")
REFUSED = ("gcps", "rpc", "eight_bands")
PHOTOGRAPHS = ("png", "jpeg", "turned_jpeg", "no_crs")  # decoded at once, as in training


def picture():
    """Values that differ in each pixel; (3, H, W)."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return np.stack((x * 255 // (WIDTH - 1), y * 3, (x + y) % 256)).astype(np.uint8)


def whole(pixels):
    return pixels.read(0, 0, pixels.width, pixels.height)


def stretched(bands, low, high):
    """(C, H, W) of any depth to (H, W, C) uint8, by hand."""
    values = bands.astype(np.float64).transpose(1, 2, 0)
    return np.nan_to_num(np.rint((values - low) * (255 / (np.asarray(high) - low)))).clip(0, 255).astype(np.uint8)


def expected(kind, path):
    """The pixels that a kind of raster has for the detector, computed without d2tiny; (H, W, 3)."""
    values = picture().transpose(1, 2, 0)
    with rasterio.open(path) as file:
        bands = file.read()
        if kind == "palette":
            return np.array([file.colormap(1)[i][:3] for i in range(256)], np.uint8)[bands[0]]
        if kind == "one_band":
            return np.repeat(bands[0][:, :, None], 3, axis=2)
        if kind in DEEP:
            sample = [b[np.isfinite(b)] if kind == "nan" else b.ravel() for b in bands]
            low, high = np.array([np.percentile(s.astype(np.float64), (2, 98)) for s in sample]).T
            return stretched(bands, low, high)
        if kind == "nodata":
            return bands.transpose(1, 2, 0)
        if kind in ("jpeg", "turned_jpeg"):
            from PIL import Image, ImageOps

            with Image.open(path) as image:
                return np.asarray(ImageOps.exif_transpose(image))
    return values


def test_all_kinds_are_covered():
    assert set(REFUSED) < set(KINDS) and set(DEEP) < set(KINDS) and set(PHOTOGRAPHS) < set(KINDS)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in REFUSED])
def test_pixels_masks_and_places(tmp_path, kind):
    path = make(kind, picture(), tmp_path)
    want = expected(kind, path)
    pixels = open_pixels(path)
    assert (pixels.width, pixels.height, pixels.scale, pixels.file_size) == (WIDTH, HEIGHT, (1, 1), (WIDTH, HEIGHT))
    assert isinstance(pixels, ArrayPixels if kind in PHOTOGRAPHS else RasterPixels)
    got = whole(pixels)
    assert got.dtype == np.uint8 and got.flags.c_contiguous
    # The last bit of a rounding may differ between single and double precision.
    assert np.abs(got.astype(int) - want).max() <= (kind in DEEP)
    x0, y0, x1, y1 = WINDOW
    np.testing.assert_array_equal(pixels.read(*WINDOW), got[y0:y1, x0:x1])
    np.testing.assert_array_equal(pixels.rows(3, 9), got[3:9])
    np.testing.assert_array_equal(valid_of(pixels), data_of(kind))
    if kind in PHOTOGRAPHS:
        assert pixels.geo is None
    else:
        with rasterio.open(path) as file:
            assert pixels.geo.transform == tuple(file.transform)[:6]
            assert pixels.geo.crs == f"EPSG:{file.crs.to_epsg()}"
    pixels.close()


def valid_of(pixels, window=(0, 0, WIDTH, HEIGHT)):
    valid = pixels.valid(*window)
    return np.ones((window[3] - window[1], window[2] - window[0]), np.bool_) if valid is None else valid


def data_of(kind):
    data = np.ones((HEIGHT, WIDTH), np.bool_)
    if kind in ("alpha", "mask"):
        data = half(HEIGHT, WIDTH)
    if kind in ("nodata", "nan"):
        data[:] = False
        data[FRAME:-FRAME, FRAME:-FRAME] = True
    return data


@pytest.mark.parametrize("kind", ["nodata", "nan", "alpha", "mask"])
def test_masks_of_windows(tmp_path, kind):
    pixels = open_pixels(make(kind, picture(), tmp_path))
    x0, y0, x1, y1 = WINDOW
    np.testing.assert_array_equal(valid_of(pixels, WINDOW), data_of(kind)[y0:y1, x0:x1])
    assert pixels.valid(40, 50, 50, 60) is None  # all have data
    corner = (0, 0, 10, 10) if kind.startswith("na") else (110, 0, 120, 10)
    assert not valid_of(pixels, corner).any()


def test_nodata_of_deep_rasters_is_black_and_no_part_of_the_stretch(tmp_path):
    """Values of 60,000 that are no data would otherwise darken all others."""
    values = np.full((1, 40, 50), 60_000, np.uint16)
    values[0, 10:, :] = np.linspace(100, 900, 50)
    pixels = open_pixels(geotiff(tmp_path / "a.tif", values, nodata=60_000))
    low, high = pixels.chosen["stretch"][0]
    assert (low, high) == tuple(np.percentile(values[0, 10:].astype(float), (2, 98)))
    assert not pixels.read(0, 0, 50, 10).any()
    assert whole(pixels)[20, -1].tolist() == [255] * 3


@pytest.mark.parametrize("bands", [(5, 3, 2), (7, 5, 3), (8,)])
def test_chosen_bands(tmp_path, bands):
    path = make("eight_bands", picture(), tmp_path)
    pixels = open_pixels(path, ReadSettings(bands=bands))
    want = bands_of_8(picture())[[b - 1 for b in bands]].transpose(1, 2, 0)
    np.testing.assert_array_equal(whole(pixels), want if len(bands) == 3 else np.repeat(want, 3, axis=2))
    assert pixels.chosen["bands"] == list(bands)


def test_bands_that_a_file_names_are_taken_in_their_order(tmp_path):
    values = np.stack((*picture()[::-1], np.full((HEIGHT, WIDTH), 7, np.uint8)))
    path = geotiff(tmp_path / "a.tif", values, photometric="MINISBLACK")
    names = ("blue", "green", "red", "undefined")
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [rasterio.enums.ColorInterp[name] for name in names]
    pixels = open_pixels(path)
    assert pixels.chosen["bands"] == [3, 2, 1]
    np.testing.assert_array_equal(whole(pixels), picture().transpose(1, 2, 0))


def test_bands_that_nobody_names_are_refused(tmp_path):
    path = geotiff(tmp_path / "four.tif", np.zeros((4, 20, 30), np.uint8), photometric="MINISBLACK")
    for file, count in ((path, 4), (make("eight_bands", picture(), tmp_path), 8)):
        with pytest.raises(DatasetError, match=rf"{count} bands, and the file does not say .* --bands 3,2,1"):
            open_pixels(file)
    with pytest.raises(ConfigError, match="--bands 4,3,9: it has 4 bands"):
        open_pixels(path, ReadSettings(bands=(4, 3, 9)))


@pytest.mark.parametrize("text", ["", "a", "1,2", "0", "1,2,3,4", "-1", "1.5", "1,,2"])
def test_bands_that_are_none(text):
    with pytest.raises(ConfigError, match="4,3,2"):
        parse_bands(text)
    assert parse_bands("4, 3,2") == (4, 3, 2)


@pytest.mark.parametrize("kind", ["uint16", "twelve_bits", "float"])
@pytest.mark.parametrize("stretch", ["10%,90%", "200,2000", "0,0.3"])
def test_stretch(tmp_path, kind, stretch):
    """Percentiles or values; the same for all windows, and written into the record."""
    path = make(kind, picture(), tmp_path)
    with rasterio.open(path) as file:
        bands = file.read()
    low, high = (float(word.rstrip("%")) for word in stretch.split(","))
    if "%" in stretch:
        low, high = np.percentile(bands.reshape(3, -1).astype(np.float64), (low, high), axis=1)
    pixels = open_pixels(path, ReadSettings(stretch=stretch))
    limits = np.array(pixels.chosen["stretch"])
    np.testing.assert_allclose(limits.T, np.broadcast_to(np.array([low, high]).reshape(2, -1), (2, 3)), rtol=1e-6)
    assert np.abs(whole(pixels).astype(int) - stretched(bands, low, high)).max() <= 1
    assert pixels.chosen["values"] == str(bands.dtype)
    assert ("percentiles" in pixels.chosen) == ("%" in stretch)


@pytest.mark.parametrize("overviews", [True, False])
def test_percentiles_of_a_large_raster_are_those_of_samples(tmp_path, overviews):
    """Over all of it: from windows, or from an overview."""
    rng = np.random.default_rng(0)
    values = (np.linspace(500, 3000, 5000)[None, :, None] + rng.normal(0, 50, (1, 5000, 300))).astype(np.uint16)
    path = geotiff(tmp_path / "a.tif", values, tiled=True, blockxsize=256, blockysize=256)
    if overviews:
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    pixels = open_pixels(path)
    assert pixels.chosen["stretch"][0] == pytest.approx(np.percentile(values, (2, 98)), abs=100)


def test_what_was_chosen_is_told(tmp_path, caplog):
    caplog.set_level(logging.INFO, "d2tiny")
    logging.getLogger("d2tiny").addHandler(caplog.handler)
    open_pixels(make("eight_bands", picture(), tmp_path), ReadSettings(bands=(5, 3, 2), gsd=1.0))
    open_pixels(make("uint16", picture(), tmp_path), ReadSettings(stretch="300,9300"))
    open_pixels(make("one_band", picture(), tmp_path))
    text = caplog.text
    assert "eight_bands.tif: bands 5, 3, 2 as red, green, blue; resampled to 60x40 px of 1 m." in text
    assert "bands 1, 2, 3 as red, green, blue; uint16 values 300 to 9300; 300 to 9300; 300 to 9300 as 0 to 255." in text
    assert "one_band.tif: band 1 as grey." in text


@pytest.mark.parametrize("kind", ["utm", "geographic", "web_mercator", "rotated", "non_square", "uint16", "south_up"])
@pytest.mark.parametrize("gsd", [1.0, 0.25])
def test_resampling_gives_objects_the_size_that_is_asked_for(tmp_path, kind, gsd):
    """A bright rectangle of known px has its size in metres by the ground, whatever the units of the file."""
    image = np.full((3, HEIGHT, WIDTH), 40, np.uint8)
    image[:, 20:60, 30:100] = 220
    pixels = open_pixels(make(kind, image, tmp_path), ReadSettings(gsd=gsd, stretch="0,65535"))
    assert pixels.file_size == (WIDTH, HEIGHT)
    # Metres on the ground of a pixel of the file; Mercator's are longer at this latitude than they are.
    x, y = {"non_square": (0.5, 0.8), "web_mercator": (0.5, 0.5)}.get(kind, (PIXEL, PIXEL))
    assert (pixels.width, pixels.height) == pytest.approx((WIDTH * x / gsd, HEIGHT * y / gsd), abs=1.01)
    seen = whole(pixels)[..., 0].astype(int)
    bright = np.argwhere(seen > (seen.max() + seen.min()) / 2)
    (top, left), (bottom, right) = bright.min(axis=0), bright.max(axis=0) + 1
    assert (right - left, bottom - top) == pytest.approx((70 * x / gsd, 40 * y / gsd), abs=1.5)
    # Back in px of the file.
    sx, sy = pixels.scale
    back = (left * sx, top * sy, right * sx, bottom * sy)
    np.testing.assert_allclose(back, (30, 20, 100, 60), atol=1.5 * max(sx, sy))


def test_resampling_keeps_masks(tmp_path):
    pixels = open_pixels(make("nodata", picture(), tmp_path), ReadSettings(gsd=1.0))
    valid = valid_of(pixels, (0, 0, pixels.width, pixels.height))
    assert valid[10:-10, 10:-10].all() and not valid[:7].any() and not valid[:, -7:].any()


def test_resampling_needs_coordinates(tmp_path):
    for kind in ("no_crs", "png"):
        with pytest.raises(ConfigError, match="without coordinates, --gsd has no meaning"):
            open_pixels(make(kind, picture(), tmp_path), ReadSettings(gsd=0.5))


@pytest.mark.parametrize("kind", ["png", "no_crs", "utm", "rotated", "one_band", "uint16"])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_any_image_is_resized_by_a_factor(tmp_path, kind, factor):
    """A bright rectangle of known px; what is found goes back to px of the file."""
    image = np.full((1 if kind == "one_band" else 3, HEIGHT, WIDTH), 40, np.uint8)
    image[:, 20:60, 30:100] = 220
    pixels = open_pixels(make(kind, image, tmp_path), ReadSettings(resize=factor, stretch="0,65535"))
    assert pixels.file_size == (WIDTH, HEIGHT)
    assert (pixels.width, pixels.height) == (WIDTH * factor, HEIGHT * factor)
    assert pixels.scale == (1 / factor, 1 / factor)
    assert pixels.chosen["resize"] == factor
    assert (pixels.geo is None) == (kind in ("png", "no_crs"))
    seen = whole(pixels)[..., 0].astype(int)
    bright = np.argwhere(seen > (seen.max() + seen.min()) / 2)
    np.testing.assert_allclose(bright.min(axis=0)[::-1], (30 * factor, 20 * factor), atol=1)
    np.testing.assert_allclose(bright.max(axis=0)[::-1] + 1, (100 * factor, 60 * factor), atol=1)


@pytest.mark.parametrize("kind", ["png", "no_crs"])
@pytest.mark.parametrize("factor", [0.5, 0.75, 0.37, 1.5])
def test_a_ramp_keeps_its_place(tmp_path, kind, factor):
    """Of odd sides and other factors: Pillow's box would misplace pixels by up to a half."""
    ramp = np.broadcast_to(np.arange(203), (3, 141, 203)).astype(np.uint8)
    pixels = open_pixels(make(kind, ramp, tmp_path), ReadSettings(resize=factor))
    scale = pixels.scale[0]
    seen = whole(pixels)[pixels.height // 2, :, 0].astype(float)
    right = (np.arange(pixels.width) + 0.5) * scale - 0.5
    edge = int(np.ceil(3 / scale)) + 1
    assert np.abs(seen - right)[edge:-edge].max() < 0.8  # half a level of it is rounding


def test_a_scene_that_was_a_photograph_elsewhere_is_read_as_a_raster(tmp_path):
    """A machine without rasterio opened it and told no bands; joined shards open it where there is rasterio."""
    path = make("utm", picture(), tmp_path)
    settings = ReadSettings(resize=0.5)
    pixels = open_pixels(path, settings, known={"resize": 0.5, "resampled_to": [1, 1]})
    assert pixels.chosen["bands"] == open_pixels(path, settings).chosen["bands"]


def test_an_enlarged_photograph_over_the_limit_is_read_by_windows(tmp_path, monkeypatch):
    monkeypatch.setattr("d2tiny.inference.raster.DECODED_PIXELS", 4 * WIDTH * HEIGHT)
    path = make("png", picture(), tmp_path)
    assert type(open_pixels(path, ReadSettings(resize=2.0))).__name__ == "ArrayPixels"
    pixels = open_pixels(path, ReadSettings(resize=3.0))
    assert type(pixels).__name__ == "RasterPixels"
    assert (pixels.width, pixels.height) == (3 * WIDTH, 3 * HEIGHT)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_factors_that_are_none(value):
    with pytest.raises(ConfigError, match="must be a factor from"):
        ReadSettings(resize=value)
    with pytest.raises(ConfigError, match="leave one out"):
        ReadSettings(resize=2.0, gsd=1.0)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_sizes_of_pixels_that_are_none(value):
    with pytest.raises(ConfigError, match="metres a pixel"):
        ReadSettings(gsd=value)


@pytest.mark.parametrize(
    ("kind", "command"), [("gcps", "gdalwarp -r cubic gcps.tif"), ("rpc", "gdalwarp -rpc -to RPC_DEM")]
)
def test_rasters_without_a_transform_are_refused_with_the_command_that_mends_them(tmp_path, kind, command):
    with pytest.raises(DatasetError, match="Rectify it first") as raised:
        open_pixels(make(kind, picture(), tmp_path))
    assert command in str(raised.value)


def test_rectified_control_points_are_read(tmp_path):
    """What the command that is named does, through its library."""
    from rasterio.vrt import WarpedVRT

    with rasterio.open(make("gcps", picture(), tmp_path)) as file, WarpedVRT(file, src_crs=UTM, crs=UTM) as warped:
        values, transform = warped.read(), warped.transform
    pixels = open_pixels(geotiff(tmp_path / "rectified.tif", values[:3], transform=transform))
    assert pixels.geo.transform[2] == pytest.approx(UTM_CORNER[0], abs=PIXEL)


def test_a_photograph_that_is_turned_and_too_deep_is_refused(tmp_path, monkeypatch):
    path = make("turned_jpeg", picture(), tmp_path)
    monkeypatch.setattr("d2tiny.inference.raster.DECODED_PIXELS", 100)
    with pytest.raises(DatasetError, match=r"EXIF orientation turns it.*exiftran"):
        open_pixels(path)


def test_large_photographs_are_read_in_windows_with_the_same_pixels(tmp_path, monkeypatch):
    path = make("png", picture(), tmp_path)
    monkeypatch.setattr("d2tiny.inference.raster.DECODED_PIXELS", 100)
    pixels = open_pixels(path)
    assert isinstance(pixels, RasterPixels) and pixels.geo is None
    np.testing.assert_array_equal(whole(pixels), picture().transpose(1, 2, 0))


def test_world_files_give_photographs_their_place(tmp_path):
    """A PNG with .pgw and .aux.xml beside it, as GDAL writes it."""
    source = geotiff(tmp_path / "source.tif", picture())
    rasterio.shutil.copy(source, tmp_path / "a.png", driver="PNG", WORLDFILE="YES")
    assert (tmp_path / "a.wld").is_file()
    pixels = open_pixels(tmp_path / "a.png")
    assert pixels.geo.crs == UTM
    assert pixels.geo.transform == tuple(north_up())[:6]
    np.testing.assert_array_equal(whole(pixels), picture().transpose(1, 2, 0))


def test_urls(tmp_path):
    """Read in ranges; nothing is asked for but the file."""
    name = make("cog", picture(), tmp_path / "files").name
    with served(tmp_path / "files") as (url, asked):
        pixels = open_pixels(f"{url}/{name}")
        np.testing.assert_array_equal(pixels.read(*WINDOW), picture().transpose(1, 2, 0)[10:74, 30:94])
        assert pixels.geo.crs == UTM
        pixels.close()
        with pytest.raises(DatasetError, match=r"none\.tif: cannot read this raster"):
            open_pixels(f"{url}/none.tif")
    assert set(asked) == {f"/{name}", "/none.tif"}


def test_what_is_damaged_is_named(tmp_path):
    path = make("striped", picture(), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\xff" * (len(content) // 4))
    with pytest.raises(DatasetError, match=r"striped\.tif: cannot read"):
        whole(open_pixels(path))
    (tmp_path / "none.vrt").write_text("<VRTDataset")
    with pytest.raises(DatasetError, match=r"none\.vrt: cannot read this raster"):
        open_pixels(tmp_path / "none.vrt")
    for name in ("", "absent.tif", "a\0b.tif"):
        with pytest.raises(DatasetError, match=r"cannot read|not a file"):
            open_pixels(str(tmp_path / name))


def test_times_are_those_of_the_file(tmp_path):
    path = geotiff(tmp_path / "a.tif", picture())
    with rasterio.open(path, "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="2024:05:01 10:20:30")
    assert open_pixels(path).time == "2024-05-01T10:20:30"
    shutil.copy(make("utm", picture(), tmp_path), tmp_path / "none.tif")
    assert open_pixels(tmp_path / "none.tif").time == ""
    for domain, name in (("IMAGERY", "ACQUISITIONDATETIME"), (None, "PRODUCT_START_TIME")):
        path = geotiff(tmp_path / f"{name}.tif", picture())
        with rasterio.open(path, "r+") as file:
            file.update_tags(ns=domain, **{name: "2024-05-01T10:20:30.024Z"})
        assert open_pixels(path).time == "2024-05-01T10:20:30"


def test_an_array_is_a_scene():
    pixels = ArrayPixels(picture().transpose(1, 2, 0))
    assert (pixels.width, pixels.height, pixels.geo, pixels.valid(*WINDOW)) == (WIDTH, HEIGHT, None, None)
    for wrong in (np.zeros((3, 4)), np.zeros((3, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(DatasetError, match="uint8"):
            ArrayPixels(wrong)
