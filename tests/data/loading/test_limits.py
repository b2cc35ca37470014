"""Large images, claims that memory cannot hold, and files that are none: the same answer from every reader."""

from __future__ import annotations

import io
import json
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2tiny.data.coco.check import check_json
from d2tiny.data.loading import limits
from d2tiny.data.loading.headers import decoding_problem, image_problem, read_header
from d2tiny.data.loading.images import DecodedCache, read_image
from d2tiny.data.loading.limits import bomb_problem, claim_problem, memory_limit, pillow_unlimited, size_problem
from d2tiny.data.loading.raster import RasterReader, read_reduced
from d2tiny.data.tools.tiling import TileSettings, tile_dataset
from d2tiny.utils.errors import DatasetError

HEIGHT, WIDTH = 40, 60
FORMATS = {
    "jpg": {},
    "cmyk.jpg": {},
    "png": {},
    "16 colours.png": {"bits": 4},
    "tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "cmyk.tif": {},
    "bmp": {},
    "webp": {"lossless": True},
    "turned.jpg": {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0\0\0\0\0"},
}


def picture() -> Image.Image:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return Image.fromarray(np.stack((y * 5, x * 4, y + x), axis=2).astype(np.uint8))


def write(root: Path, name: str) -> Path:
    image = picture().convert("CMYK") if "cmyk" in name else picture().quantize(16) if "16" in name else picture()
    image.save(root / f"a.{name.split('.')[-1]}", **FORMATS[name])
    return root / f"a.{name.split('.')[-1]}"


def dataset(path: Path) -> Path:
    image = {"id": 1, "file_name": path.name, "width": WIDTH, "height": HEIGHT}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 4, 5, 6], "area": 30, "iscrowd": 0}
    data = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "car"}]}
    (path.parent / "gt.json").write_text(json.dumps(data))
    return path.parent / "gt.json"


@pytest.fixture
def small_memory(monkeypatch):
    """Limits of 1,000 bytes, for images of 7,200."""
    monkeypatch.setattr(limits, "memory_limit", lambda: 1000)


@pytest.mark.parametrize("max_decoded", [0, 10**9])
@pytest.mark.parametrize("name", FORMATS)
def test_images_over_the_limit_of_pillow_are_read_by_all(tmp_path, monkeypatch, name, max_decoded):
    """2,400 px with a limit of 100, above which Pillow warns, and from twice which it raises."""
    pytest.importorskip("rasterio")
    path = write(tmp_path, name)
    expected = read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr("d2tiny.data.loading.headers.DECODED_PIXELS", max_decoded)
    monkeypatch.setattr("d2tiny.data.loading.raster.RasterReader.__init__.__defaults__", (max_decoded,))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        assert image_problem(str(path), WIDTH, HEIGHT) is None
        assert decoding_problem(path) is None
        assert np.array_equal(read_image(path), expected)
        assert np.array_equal(DecodedCache(tmp_path / "cache").read(path), expected)
        assert not check_json(dataset(path), tmp_path, decode=True, progress=False).findings.count("error")
        tile_dataset(dataset(path), tmp_path, tmp_path / "out", TileSettings(32, 8), progress=False)
        tile = read_image(tmp_path / "out" / "images" / "a__28_8.png").astype(int)
        assert np.abs(tile - expected[8:40, 28:60]).max() <= (8 if "jpg" in name else 0)  # decoders of JPEG differ
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)


@pytest.mark.parametrize("name", FORMATS)
def test_images_that_do_not_fit_into_memory_are_refused_by_all(tmp_path, small_memory, name):
    path = write(tmp_path, name)
    sentence = "60x40 px take 0.0 GB decoded, more than the limit of 0.0 GB, half of this machine's memory"
    for read in (read_image, DecodedCache(tmp_path / "cache").read):
        with pytest.raises(DatasetError) as error:
            read(path)
        assert f"{path}: cannot read this image ({sentence}" in str(error.value)
    assert str(image_problem(str(path), WIDTH, HEIGHT)).startswith(f"too large ({sentence}")
    found = check_json(dataset(path), tmp_path, progress=False).findings.to_dict()
    assert "images too large, left out" in json.dumps(found)


def test_large_upright_images_can_still_be_tiled(tmp_path, small_memory):
    """Bands of 5 rows of 60 px are 900 bytes; an incompressible file is no bomb."""
    pytest.importorskip("rasterio")
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    with RasterReader(tmp_path / "a.png", max_decoded=0) as reader:
        assert np.array_equal(reader.rows(5, 10), noise[5:10])
        with pytest.raises(DatasetError, match="20 rows of 60 px do not fit into memory"):
            reader.rows(10, 30)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(kind: str) -> bytes:
    """Small files of 10^12 pixels, or as many as the format can say."""
    side = 65_000 if kind == "jpg" else 1_000_000
    if kind == "png":
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        data = chunk(b"IDAT", zlib.compress(bytes(3000))) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data
    buffer = io.BytesIO()
    picture().save(buffer, {"jpg": "JPEG", "tif": "TIFF", "bmp": "BMP"}[kind])
    data = bytearray(buffer.getvalue())
    if kind == "jpg":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", side, side)
    elif kind == "bmp":
        data[18:26] = struct.pack("<II", side, side)
    else:
        for tag, old in ((256, WIDTH), (257, HEIGHT), (278, HEIGHT)):
            for form in ("<HHII", "<HHIHH"):
                for kind_of_field in (3, 4):
                    entry = struct.pack(form, tag, kind_of_field, 1, old, *([0] if form == "<HHIHH" else []))
                    data = data.replace(entry, struct.pack("<HHII", tag, 4, 1, side))
    return bytes(data)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "bmp"])
def test_bombs_are_refused_with_a_sentence(tmp_path, monkeypatch, kind):
    """Without an attempt to decode them."""
    path = tmp_path / f"a.{kind}"
    path.write_bytes(bomb(kind))
    monkeypatch.setattr(limits, "memory_limit", lambda: 8 << 30)
    assert read_header(path).size[0] >= 65_000
    monkeypatch.setattr("d2tiny.data.loading.images.cv2.imdecode", lambda *a: pytest.fail("decoded"))
    monkeypatch.setattr(Image.Image, "load", lambda *a: pytest.fail("decoded"))
    for read in (read_image, lambda p: RasterReader(p), lambda p: read_reduced(p, 8)):
        with pytest.raises(DatasetError, match=r"GB decoded, more than the limit of 8\.6 GB") as error:
            read(path)
        assert str(path) in str(error.value)
    assert "too large" in str(image_problem(str(path), 65_000, 65_000))
    with pytest.raises(DatasetError, match=r"bytes claim .*GB decoded"):
        RasterReader(path)


def test_limits_by_hand(monkeypatch):
    """3 bytes a pixel: 100 × 100 px take 30,000; a bomb also has more than 250 times its file."""
    monkeypatch.setattr(limits, "memory_limit", lambda: 30_000)
    assert size_problem(100, 100) is None
    assert size_problem(100, 101).kind == "too large"
    assert bomb_problem(100, 101, 1000) is None
    assert bomb_problem(100, 101, 100) is not None
    assert bomb_problem(100, 100, 1) is None
    monkeypatch.setattr(limits, "memory_limit", lambda: 10**12)
    assert claim_problem(10_000, 10_000, 2999).kind == "cut short"  # 300 MB, 100,033 times the file
    assert claim_problem(10_000, 10_000, 3001) is None
    assert claim_problem(5_000, 5_000, 9) is None  # 75 MB


def test_the_memory_limit_is_half_of_the_memory():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory_limit() <= total // 2


def test_the_limit_of_pillow_returns_when_the_last_thread_leaves(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 123)
    with pillow_unlimited():
        with pytest.raises(ValueError, match="x"), pillow_unlimited():
            raise ValueError("x")
        assert Image.MAX_IMAGE_PIXELS is None
        other = pillow_unlimited()
        for step in (other.__enter__, lambda: other.__exit__(None, None, None)):
            thread = threading.Thread(target=step)
            thread.start()
            thread.join()
            assert Image.MAX_IMAGE_PIXELS is None
    assert Image.MAX_IMAGE_PIXELS == 123


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_pipes_are_refused_by_every_reader(tmp_path):
    """Opening one would wait for a writer for ever; here in a thread, which must end."""
    os.mkfifo(tmp_path / "a.png")
    path, messages = tmp_path / "a.png", []

    def read_all() -> None:
        for read in (read_image, RasterReader, DecodedCache(tmp_path / "cache").read, lambda p: read_reduced(p, 8)):
            with pytest.raises(DatasetError) as error:
                read(path)
            messages.append(str(error.value))
        messages.append(str(image_problem(str(path), 3, 3)))
        messages.append(str(decoding_problem(path)))

    thread = threading.Thread(target=read_all, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert len(messages) == 6
    for message in messages:
        assert "is a pipe, socket or device, not a file" in message


@pytest.mark.parametrize("side", [50, 100, 700])
def test_reduced_images_are_means_of_squares(tmp_path, monkeypatch, side):
    """900 × 300 px: factor 18, 9 and 1; whole and in bands the same."""
    pytest.importorskip("rasterio")
    pixels = np.random.default_rng(0).integers(0, 255, (300, 900, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    factor = {50: 18, 100: 9, 700: 1}[side]
    found, by = read_reduced(tmp_path / "a.png", side)
    assert (by, found.shape[:2]) == (factor, (300 // factor, 900 // factor))
    monkeypatch.setattr("d2tiny.data.loading.raster.RasterReader.__init__.__defaults__", (0,))
    assert np.array_equal(read_reduced(tmp_path / "a.png", side)[0], found)
    height, width = (300 // factor) * factor, 900
    blocks = pixels[:height].reshape(height // factor, factor, width // factor, factor, 3).mean(axis=(1, 3))
    assert np.abs(found - blocks).max() <= 0.51


def test_a_strip_thinner_than_a_square_stays(tmp_path):
    Image.fromarray(np.full((3, 2000, 3), 9, np.uint8)).save(tmp_path / "a.png")
    found, factor = read_reduced(tmp_path / "a.png", 100)
    assert (factor, found.shape) == (20, (1, 100, 3))
    assert (found == 9).all()


def test_tiffs_with_less_strips_than_rows_are_refused(tmp_path):
    """Pillow reads the missing rows as black, and takes a minute for millions of them."""
    picture().convert("CMYK").save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    entry = next(e for k in (3, 4) if (e := struct.pack("<HHII", 257, k, 1, HEIGHT)) in data)
    (tmp_path / "a.tif").write_bytes(data.replace(entry, struct.pack("<HHII", 257, 4, 1, 9_000_000)))
    with pytest.raises(DatasetError, match=r"a\.tif: cannot read this image .*strips of .*claims 9000000 rows"):
        read_image(tmp_path / "a.tif")
    assert "unreadable" in str(image_problem(str(tmp_path / "a.tif"), WIDTH, 9_000_000))
