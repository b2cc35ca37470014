"""A property of every reader: the size of the header is that of the pixels, turned once as EXIF says."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from d2tiny.data.loading import images
from d2tiny.data.loading.headers import decoding_problem, image_problem, read_header
from d2tiny.data.loading.images import DecodedCache, read_image
from d2tiny.data.loading.raster import RasterReader

HEIGHT, WIDTH = 22, 36


def stored() -> np.ndarray:
    """Slopes of different steepness: no turn of it is another."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack((y * 6, x * 5, y * 2 + x * 3), axis=2).astype(np.uint8)


def upright(orientation: int) -> np.ndarray:
    """The definition: where row 0 and column 0 of the stored pixels belong."""
    pixels = stored()
    return {
        1: pixels,  # top, left
        2: np.fliplr(pixels),  # top, right
        3: np.rot90(pixels, 2),  # bottom, right
        4: np.flipud(pixels),  # bottom, left
        5: pixels.transpose(1, 0, 2),  # left, top
        6: np.rot90(pixels, -1),  # right, top: turned clockwise
        7: np.rot90(pixels, 2).transpose(1, 0, 2),  # right, bottom
        8: np.rot90(pixels, 1),  # left, bottom
    }.get(orientation, pixels)


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x112] = orientation
    return block.tobytes()


def save(kind: str, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(stored())
    (image.quantize(250) if mode == "P" else image.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


def xmp(orientation: int) -> bytes:
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_text(orientation: int) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp(orientation).decode())
    return save("PNG", pnginfo=info)


def jpeg_with(orientation: int, place: bytes) -> bytes:
    """A JPEG whose EXIF segment stands before another one."""
    plain, block = save("JPEG", subsampling=0), exif(orientation)
    at = plain.index(place)
    return plain[:at] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[at:]


FORMATS = {
    "jpeg": lambda o: save("JPEG", exif=exif(o), subsampling=0),
    "jpeg, grey": lambda o: save("JPEG", "L", exif=exif(o)),
    "jpeg, cmyk": lambda o: save("JPEG", "CMYK", exif=exif(o)),
    "jpeg, progressive": lambda o: save("JPEG", exif=exif(o), progressive=True, subsampling=0),
    "jpeg, xmp": lambda o: save("JPEG", xmp=xmp(o), subsampling=0),
    "jpeg, exif behind the frame": lambda o: jpeg_with(o, b"\xff\xda"),
    "jpeg, several images": lambda o: save(
        "MPO", save_all=True, append_images=[Image.fromarray(stored())], exif=exif(o), subsampling=0
    ),
    "png": lambda o: save("PNG", exif=exif(o)),
    "png, grey": lambda o: save("PNG", "L", exif=exif(o)),
    "png, palette": lambda o: save("PNG", "P", exif=exif(o)),
    "png, alpha": lambda o: save("PNG", "RGBA", exif=exif(o)),
    "png, exif behind the pixels": lambda o: save("PNG")[:-12] + chunk(b"eXIf", exif(o)[6:]) + save("PNG")[-12:],
    "png, xmp": png_text,
    "tiff": lambda o: save("TIFF", exif=exif(o)),
    "tiff, grey": lambda o: save("TIFF", "L", exif=exif(o)),
    "tiff, alpha": lambda o: save("TIFF", "RGBA", exif=exif(o)),
    "tiff, palette": lambda o: save("TIFF", "P", exif=exif(o)),
    "tiff, cmyk": lambda o: save("TIFF", "CMYK", exif=exif(o)),
    "tiff, lzw": lambda o: save("TIFF", exif=exif(o), compression="tiff_lzw"),
    "tiff, deflate": lambda o: save("TIFF", exif=exif(o), compression="tiff_adobe_deflate"),
    "tiff, xmp": lambda o: save("TIFF", tiffinfo={700: xmp(o)}),
    "webp": lambda o: save("WEBP", exif=exif(o), lossless=True),
    "webp, xmp": lambda o: save("WEBP", xmp=xmp(o), lossless=True),
}


def read_bands(path: Path, **options) -> np.ndarray:
    with RasterReader(path, **options) as reader:
        rows = [reader.rows(y, min(y + 5, reader.height)) for y in range(0, reader.height, 5)]
        assert (reader.height, reader.width) == (sum(map(len, rows)), rows[0].shape[1])
        return np.concatenate(rows)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("name", FORMATS)
def test_every_reader_turns_once(tmp_path, monkeypatch, name, orientation):
    if name in ("tiff, lzw", "tiff, deflate") and orientation in (0, 9):
        pytest.skip("libtiff does not write it")
    path = tmp_path / "a"
    path.write_bytes(FORMATS[name](orientation))
    expected = upright(orientation)
    if "grey" in name:
        expected = np.array(Image.fromarray(expected).convert("L").convert("RGB"))
    tolerance = 40 if "palette" in name else 12 if "jpeg" in name else 0
    pytest.importorskip("rasterio")
    found = {
        "read_image": read_image(path),
        "whole": read_bands(path),
        "bands": read_bands(path, max_decoded=0),
        "cached": DecodedCache(tmp_path / "cache").read(path),
    }
    with monkeypatch.context() as patch:
        patch.setattr(images, "_png_decoder", lambda: None)
        found["without kornia"] = read_image(path)
    with monkeypatch.context() as patch:
        patch.setattr(images, "_decode", lambda data: None)
        found["pillow"] = read_image(path)
    assert read_header(path).size == expected.shape[1::-1]
    for reader, pixels in found.items():
        assert pixels.shape == expected.shape, reader
        assert np.abs(pixels.astype(int) - expected).max() <= tolerance, reader
        assert pixels.flags.c_contiguous or reader in ("whole", "bands")
    assert image_problem(str(path), *expected.shape[1::-1]) is None
    assert decoding_problem(path) is None


def test_damaged_exif_means_upright_everywhere(tmp_path):
    """As in Detectron2: every byte of the block changed once; whatever is read, header and pixels agree."""
    data = save("JPEG", exif=exif(6), subsampling=0)
    start = data.index(b"Exif")
    for place in range(start, start + len(exif(6))):
        for flip in (0x01, 0x55, 0xFF):
            path = tmp_path / "a.jpg"
            path.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
            assert read_header(path).size == read_image(path).shape[1::-1], (place, flip)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("max_decoded", [0, 10**9])
def test_deep_images_are_turned_likewise(tmp_path, orientation, max_decoded):
    pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    deep = Image.fromarray(stored()[..., 2].astype(np.uint16) * 100)
    deep.save(path, exif=exif(orientation))
    expected = upright(orientation)[..., 2]
    for pixels in (read_image(path, stretch="0,25500"), read_bands(path, max_decoded=max_decoded, stretch="0,25500")):
        assert read_header(path).size == expected.shape[::-1]
        assert np.array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))
