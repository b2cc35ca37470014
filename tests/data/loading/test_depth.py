"""One rule for depths and bands, for every reader and size: 8-bit as it is, others refused with advice or scaled."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from d2tiny.cli import main
from d2tiny.data import TinyDatasetMapper
from d2tiny.data.coco.check import check_json
from d2tiny.data.loading.headers import check_images, decoding_problem, image_problem, read_header
from d2tiny.data.loading.images import DecodedCache, read_image
from d2tiny.data.loading.raster import RasterReader, read_reduced
from d2tiny.data.loading.stretch import Stretch, make_stretch
from d2tiny.data.tools.tiling import TileSettings, tile_dataset
from d2tiny.utils.errors import ConfigError, DatasetError

rasterio = pytest.importorskip("rasterio")
HEIGHT, WIDTH = 20, 30


def ramp(bands: int, top: float) -> np.ndarray:
    """(bands, H, W) values from 0 to ``top``, in another order in each band."""
    values = np.linspace(0, top, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    return np.stack([np.roll(values, 7 * band, axis=1) for band in range(bands)])


def geotiff(path: Path, values: np.ndarray, **options) -> Path:
    bands, height, width = values.shape
    form = {"driver": "GTiff", "width": width, "height": height, "count": bands, "dtype": values.dtype, **options}
    with rasterio.open(path, "w", **form) as file:
        file.write(values)
    return path


def png(values: np.ndarray) -> bytes:
    return cv2.imencode(".png", values)[1].tobytes()


def jpeg_of_12_bits() -> bytes:
    """A header only; Pillow says of it that it cannot identify it."""
    frame = struct.pack(">BHHBBBB", 12, HEIGHT, WIDTH, 1, 1, 0x11, 0)
    return b"\xff\xd8\xff\xc1" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xda\0\2\xff\xd9"


DEEP = {
    "uint16": lambda p: geotiff(p, ramp(1, 4095).astype(np.uint16)),
    "uint16, three bands without names": lambda p: geotiff(p, ramp(3, 4095).astype(np.uint16)),
    "uint16, RGB": lambda p: geotiff(p, ramp(3, 4095).astype(np.uint16), photometric="RGB"),
    "uint16, RGB and infrared": lambda p: geotiff(p, ramp(4, 4095).astype(np.uint16), photometric="RGB"),
    "uint16, one plane a band": lambda p: geotiff(p, ramp(3, 4095).astype(np.uint16), interleave="band"),
    "int16": lambda p: geotiff(p, ramp(1, 4095).astype(np.int16)),
    "uint32": lambda p: geotiff(p, ramp(1, 4095).astype(np.uint32)),
    "int32": lambda p: geotiff(p, ramp(1, 4095).astype(np.int32)),
    "float32": lambda p: geotiff(p, ramp(1, 4095).astype(np.float32)),
    "float32, three bands": lambda p: geotiff(p, ramp(3, 4095).astype(np.float32)),
    "float64": lambda p: geotiff(p, ramp(1, 4095)),
    "uint16 png": lambda p: p.write_bytes(png(ramp(1, 4095)[0].astype(np.uint16))),
    "uint16 png, colours": lambda p: p.write_bytes(png(ramp(3, 4095).transpose(1, 2, 0).astype(np.uint16))),
    "uint16 png, alpha": lambda p: p.write_bytes(png(ramp(4, 4095).transpose(1, 2, 0).astype(np.uint16))),
    "uint16 pgm": lambda p: p.write_bytes(b"P5\n# a\n30 20\n4095\n" + ramp(1, 4095).astype(">u2").tobytes()),
    "uint16 ppm": lambda p: p.write_bytes(b"P6 30 20 4095 " + ramp(3, 4095).transpose(1, 2, 0).astype(">u2").tobytes()),
}
OTHER_BANDS = {
    "two": lambda p: geotiff(p, ramp(2, 200).astype(np.uint16)),
    "two of 8 bits": lambda p: geotiff(p, ramp(2, 200).astype(np.uint8)),
    "four without names": lambda p: geotiff(p, ramp(4, 200).astype(np.uint8), photometric="MINISBLACK", alpha="NO"),
    "four of 16 bits": lambda p: geotiff(p, ramp(4, 200).astype(np.uint16)),
    "five": lambda p: geotiff(p, ramp(5, 200).astype(np.uint8)),
    "five, the first RGB": lambda p: geotiff(p, ramp(5, 200).astype(np.uint8), photometric="RGB"),
    "eight of float": lambda p: geotiff(p, ramp(8, 200).astype(np.float32)),
    "thirteen of 16 bits": lambda p: geotiff(p, ramp(13, 200).astype(np.uint16)),
}


def dataset(root: Path, name: str) -> Path:
    data = {
        "images": [{"id": 1, "file_name": name, "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 4, 5, 6], "area": 30, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "car"}],
    }
    (root / "gt.json").write_text(json.dumps(data))
    return root / "gt.json"


def refusals(path: Path, tmp_path: Path) -> list[str]:
    """What every reader says about an image without a stretch."""
    calls = [
        lambda: read_image(path),
        lambda: RasterReader(path),
        lambda: RasterReader(path, max_decoded=0),
        lambda: DecodedCache(tmp_path / "cache").read(path),
        lambda: TinyDatasetMapper(is_train=False)({"file_name": str(path)}),
        lambda: read_reduced(path, 8),
        lambda: check_images([{"file_name": str(path), "width": WIDTH, "height": HEIGHT}], "mine"),
    ]
    messages = []
    for call in calls:
        with pytest.raises(DatasetError) as error:
            call()
        messages.append(str(error.value))
    return [*messages, str(image_problem(str(path), WIDTH, HEIGHT))]


@pytest.mark.parametrize("name", DEEP)
def test_deep_images_are_refused_by_every_reader_with_advice(tmp_path, name):
    path = tmp_path / "a.img"
    DEEP[name](path)
    assert read_header(path).size == (WIDTH, HEIGHT)
    for message in refusals(path, tmp_path):
        assert f"its values are {name.split()[0].rstrip(',')}; make it 8-bit first" in message
        assert "--stretch" in message
    findings = check_json(dataset(tmp_path, "a.img"), tmp_path, progress=False).findings
    assert findings.count("error") >= 1
    assert "images not 8-bit" in json.dumps(findings.to_dict())


@pytest.mark.parametrize("max_decoded", [0, 10**9])
@pytest.mark.parametrize("name", DEEP)
def test_deep_images_are_scaled_as_told(tmp_path, name, max_decoded):
    """Values 0 to 4095 with 0,4095: v · 255 / 4095, rounded; three bands in their order, a fourth is left out."""
    path = tmp_path / "a.img"
    DEEP[name](path)
    values = np.trunc(ramp(4, 4095)) if "float" not in name else ramp(4, 4095)
    one = read_header(path).bands == 1
    order = [0, 0, 0] if one else [2, 1, 0] if "png" in name else [0, 1, 2]  # OpenCV writes BGR
    expected = np.rint(values[order].transpose(1, 2, 0) * 255 / 4095)
    for stretch in ("0,4095", (0, 4095), Stretch(0, 4095)):
        found = read_image(path, stretch=stretch)
        assert np.abs(found - expected).max() <= (1 if "float" in name else 0)
        with RasterReader(path, max_decoded, stretch=stretch) as reader:
            assert np.array_equal(reader.rows(0, 7), found[:7])
            assert np.array_equal(reader.rows(5, HEIGHT), found[5:])
    assert np.array_equal(read_image(path, "BGR", stretch="0,4095"), read_image(path, stretch="0,4095")[..., ::-1])
    assert np.array_equal(DecodedCache(tmp_path / "cache", stretch="0,4095").read(path), found)
    mapper = TinyDatasetMapper(is_train=False, stretch="0,4095")
    assert np.array_equal(mapper({"file_name": str(path)})["image"].numpy().transpose(1, 2, 0), found)
    assert image_problem(str(path), WIDTH, HEIGHT, "0,4095") is None
    assert decoding_problem(path, "0,4095") is None


@pytest.mark.parametrize("name", OTHER_BANDS)
def test_other_bands_get_a_sentence(tmp_path, name):
    path = OTHER_BANDS[name](tmp_path / "a.tif")
    count = {"two": 2, "four": 4, "five": 5, "eight": 8, "thirteen": 13}[name.split()[0].rstrip(",")]
    for message in [*refusals(path, tmp_path)]:
        assert f"this TIFF has {count} bands of" in message
        assert "gdal_translate" in message
        assert "identify" not in message
    with pytest.raises(DatasetError, match=rf"a\.tif: this TIFF has {count} bands"):
        read_image(path, stretch="0,200")


def test_complex_values_cannot_be_scaled(tmp_path):
    path = geotiff(tmp_path / "a.tif", ramp(1, 10).astype(np.complex64))
    with pytest.raises(DatasetError, match="its values are complex64"):
        read_image(path, stretch="0,10")


def test_jpegs_of_12_bits_get_the_sentence(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg_of_12_bits())
    with pytest.raises(DatasetError, match="its values are uint12; make it 8-bit first"):
        read_image(tmp_path / "a.jpg")
    assert "not 8-bit (its values are uint12" in str(image_problem(str(tmp_path / "a.jpg"), WIDTH, HEIGHT))


def test_three_8_bit_bands_without_names_are_rgb(tmp_path):
    path = geotiff(tmp_path / "a.tif", ramp(3, 255).astype(np.uint8), photometric="MINISBLACK")
    with RasterReader(path, 0) as reader:
        for pixels in (read_image(path), read_image(path, stretch="3,9"), reader.rows(0, HEIGHT)):
            assert np.array_equal(pixels, ramp(3, 255).astype(np.uint8).transpose(1, 2, 0))
    assert image_problem(str(path), WIDTH, HEIGHT) is None


@pytest.mark.parametrize("white", [0, 1])
def test_inverted_grey_is_turned_into_grey(tmp_path, white):
    """MinIsWhite: 0 is white; of 8 bits (Pillow) and of 16 bits (GDAL), whole and in bands."""
    for dtype, top, stretch in ((np.uint8, 255, None), (np.uint16, 4080, "0,4080")):
        photometric = "MINISWHITE" if white else "MINISBLACK"
        path = geotiff(tmp_path / "a.tif", ramp(1, top).astype(dtype), photometric=photometric)
        values = np.rint(ramp(1, top).astype(dtype)[0] * (255 / top))
        expected = 255 - values if white else values
        with RasterReader(path, 0, stretch=stretch) as reader:
            assert np.array_equal(reader.rows(0, HEIGHT)[..., 0], expected)
        assert np.array_equal(read_image(path, stretch=stretch)[..., 1], expected)


def test_percentiles_are_those_of_each_band(tmp_path):
    """Values 0, 1, ..., 599 and three times these: 10 % is 59.9, 90 % 539.1; the same picture in both bands."""
    values = np.arange(600.0).reshape(HEIGHT, WIDTH)
    path = geotiff(tmp_path / "a.tif", np.stack((values, 3 * values, values)).astype(np.uint16))
    found = read_image(path, stretch="10%,90%")
    expected = np.rint((values - 59.9) * 255 / (539.1 - 59.9)).clip(0, 255)
    assert np.array_equal(found[..., 0], expected)
    assert np.array_equal(found[..., 0], found[..., 1])
    with RasterReader(path, 0, stretch="10%,90%") as reader:
        assert np.array_equal(np.concatenate((reader.rows(0, 9), reader.rows(9, HEIGHT))), found)


def test_percentiles_of_large_images_are_those_of_a_grid(tmp_path, monkeypatch):
    """A sample of 40 pixels: every 4th row and column; whole and in bands alike."""
    monkeypatch.setattr("d2tiny.data.loading.bands._SAMPLE", 40)
    values = np.arange(600.0).reshape(HEIGHT, WIDTH)
    path = geotiff(tmp_path / "a.tif", values[None].astype(np.uint16))
    low, high = np.percentile(values[::4, ::4], (0, 100))
    expected = np.rint((values - low) * 255 / (high - low)).clip(0, 255)
    assert np.array_equal(read_image(path, stretch="0%,100%")[..., 0], expected)


def test_nan_and_no_data_are_black_and_do_not_count(tmp_path):
    values = np.full((1, HEIGHT, WIDTH), 5, np.float32)
    values[0, 0, :6] = (np.nan, np.inf, -np.inf, -9999, 1, 9)
    path = geotiff(tmp_path / "a.tif", values, nodata=-9999)
    for stretch in ("1,9", "0%,100%"):
        assert read_image(path, stretch=stretch)[0, :7, 0].tolist() == [0, 255, 0, 0, 0, 255, 128]
    empty = geotiff(tmp_path / "b.tif", np.full((1, HEIGHT, WIDTH), np.nan, np.float32))
    assert not read_image(empty, stretch="2%,98%").any()


@pytest.mark.parametrize(
    "text", ["", "5", "1,2,3", "9,2", "3,3", "a,b", "2%,98", "98%,2%", "-1%,50%", "2%,101%", "nan,3", "0,inf", "1_0,20"]
)
def test_bad_stretches_are_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"stretch=.* must be two rising values"):
        make_stretch(text)
    with pytest.raises(ConfigError, match="stretch="):
        read_image(tmp_path / "a.png", stretch=text)
    with pytest.raises(ConfigError, match="stretch="):
        TileSettings(stretch=text)


def test_stretches_are_read_as_they_are_written():
    for text in ("0,4095", "-3.5,1e+06", "2%,98%", "0.5%,99.5%"):
        assert str(make_stretch(text)) == text
    assert make_stretch([2, 98]) == Stretch(2, 98)
    assert make_stretch(["2%", "98%"]) == Stretch(2, 98, percent=True)
    assert make_stretch(None) is None


def test_the_cache_keeps_stretches_apart(tmp_path):
    path = DEEP["uint16"](tmp_path / "a.tif")
    found = [DecodedCache(tmp_path / "cache", stretch=s).read(path) for s in ("0,4095", "0,2000", "0,4095")]
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])


def test_tiles_are_scaled_alike(tmp_path):
    """Percentiles are those of the image, not of the tile."""
    path = DEEP["uint16, RGB"](tmp_path / "a.tif")
    with pytest.raises(DatasetError, match=r"a\.tif: its values are uint16"):
        tile_dataset(dataset(tmp_path, "a.tif"), tmp_path, tmp_path / "no", TileSettings(16, 4), progress=False)
    settings = TileSettings(16, 4, stretch="2%,98%")
    data = tile_dataset(dataset(tmp_path, "a.tif"), tmp_path, tmp_path / "out", settings, progress=False)
    whole = read_image(path, stretch="2%,98%")
    assert data["info"]["tiling"]["stretch"] == "2%,98%"
    for image in data["images"]:
        x, y = image["source"]["x"], image["source"]["y"]
        tile = read_image(tmp_path / "out" / "images" / image["file_name"])
        assert np.array_equal(tile, whole[y : y + image["height"], x : x + image["width"]])
    with pytest.raises(ConfigError, match="tiles of other settings"):
        tile_dataset(tmp_path / "gt.json", tmp_path, tmp_path / "out", TileSettings(16, 4), progress=False)


def test_settings_without_a_stretch_are_stored_as_before():
    assert "stretch" not in TileSettings().stored()


def test_commands_take_the_option(tmp_path, capsys):
    DEEP["uint16"](tmp_path / "a.tif")
    gt, images = str(dataset(tmp_path, "a.tif")), ["--images", str(tmp_path)]
    assert main(["check", gt, *images]) == 1
    assert "not 8-bit" in capsys.readouterr().out
    assert main(["check", gt, *images, "--decode", "--stretch", "0,4095"]) == 0
    assert main(["tile", gt, *images, "-o", str(tmp_path / "t"), "--size", "16", "--overlap", "4"]) == 2
    assert "--stretch" in capsys.readouterr().err
    more = ["--size", "16", "--overlap", "4", "--stretch", "2%,98%"]
    assert main(["tile", gt, *images, "-o", str(tmp_path / "u"), *more]) == 0
    assert main(["stats", gt, *images, "-o", str(tmp_path / "s"), "--coverage", "", "--stretch", "0,4095"]) == 0
    assert "a.tif: 1 objects" in (tmp_path / "s" / "index.html").read_text()
    with pytest.raises(SystemExit) as error:
        main(["tile", gt, *images, "-o", str(tmp_path / "v"), "--stretch", "9,2"])
    assert error.value.code == 2
    assert "two rising values" in capsys.readouterr().err


def test_16_bit_pngs_of_a_damaged_header_are_named(tmp_path):
    data = bytearray(png(ramp(1, 4095)[0].astype(np.uint16)))
    data[24] = 11
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.png: cannot read this image"):
        read_image(tmp_path / "a.png", stretch="0,9")


def test_tiffs_of_unknown_compression_are_named(tmp_path):
    """Pillow raises a KeyError for them."""
    buffer = io.BytesIO()
    Image.fromarray(ramp(3, 255).astype(np.uint8).transpose(1, 2, 0)).save(buffer, "TIFF")
    data = buffer.getvalue()
    place = data.index(struct.pack("<HHII", 259, 3, 1, 1))
    (tmp_path / "a.tif").write_bytes(data[:place] + struct.pack("<HHII", 259, 3, 1, 61234) + data[place + 12 :])
    with pytest.raises(DatasetError, match=r"a\.tif: cannot read this image"):
        read_image(tmp_path / "a.tif")
    assert image_problem(str(tmp_path / "a.tif"), WIDTH, HEIGHT) is not None


@pytest.mark.parametrize("name", ["quick/faster_rcnn_r18_fpn_rfla", "aitod/yolox_m_300e"])
def test_one_key_of_configs_reaches_both_loaders(name):
    from detectron2.config import instantiate

    from d2tiny.config import load_config, validate_config

    for value, expected in (("[0,4095]", Stretch(0, 4095)), ("[2%,98%]", Stretch(2, 98, percent=True)), ("null", None)):
        cfg = load_config(name, [f"dataloader.stretch={value}"])
        validate_config(cfg, datasets=False)
        for split in ("train", "test"):
            assert instantiate(cfg.dataloader[split].mapper).stretch == expected
            assert make_stretch(cfg.dataloader[split].dataset.stretch) == expected


def test_preview_scales(tmp_path, capsys):
    DEEP["uint16"](tmp_path / "a.tif")
    gt, more = str(dataset(tmp_path, "a.tif")), ["--images", str(tmp_path), "--samples", "1", "--stretch", "0,4095"]
    assert main(["augment", gt, *more, "-o", str(tmp_path / "a.png")]) == 0
    assert main(["augment", gt, *more[:-2], "-o", str(tmp_path / "b.png")]) == 2
    assert "--stretch" in capsys.readouterr().err
