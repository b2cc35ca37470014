"""Checks of image reading against Detectron2's own, of the cache, and of the mapper against Detectron2's."""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from PIL import Image, PngImagePlugin

from d2tiny.data import TinyDatasetMapper
from d2tiny.data.loading import images
from d2tiny.data.loading.headers import decoding_problem
from d2tiny.data.loading.images import DecodedCache, read_image
from d2tiny.data.transforms import ObjectCrop
from d2tiny.utils.errors import ConfigError, DatasetError


def picture(height: int = 61, width: int = 83) -> np.ndarray:
    """Slopes and noise, so that subsampling and filters matter."""
    y, x = np.mgrid[:height, :width]
    slopes = np.stack((y * 4 % 256, x * 3 % 256, y * x % 256), axis=2)
    return (slopes + np.random.default_rng(0).integers(-30, 30, slopes.shape)).clip(0, 255).astype(np.uint8)


def save(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x112] = orientation
    return block.tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(header: bytes, lines: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def interlaced(pixels: np.ndarray) -> bytes:
    """Adam7, which PIL reads but does not write."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    lines = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in passes for row in pixels[y::dy, x::dx])
    return png(struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1), lines)


def with_text(image: Image.Image, key: str, value: str, *, international: bool = False) -> bytes:
    info = PngImagePlugin.PngInfo()
    (info.add_itxt if international else info.add_text)(key, value)
    return save(image, "PNG", pnginfo=info)


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def files() -> dict[str, bytes]:
    rgb = Image.fromarray(picture())
    alpha = Image.fromarray(np.dstack((picture(), picture()[::-1, :, 0])))
    raw = save(rgb, "PNG")
    result = {
        "444.jpg": save(rgb, "JPEG", subsampling=0, quality=90),
        "422.jpg": save(rgb, "JPEG", subsampling=1),
        "420.jpg": save(rgb, "JPEG", subsampling=2),
        "grey.jpg": save(rgb.convert("L"), "JPEG"),
        "progressive.jpg": save(rgb, "JPEG", progressive=True),
        "cmyk.jpg": save(rgb.convert("CMYK"), "JPEG"),
        "stored_rgb.jpg": save(rgb, "JPEG", keep_rgb=True),
        "bytes_behind.jpg": save(rgb, "JPEG") + b"x" * 5000,
        "xmp_orientation.jpg": save(rgb, "JPEG", xmp=XMP.encode()),
        "png_inside.jpg": raw,
        "rgb.png": raw,
        "rgba.png": save(alpha, "PNG"),
        "palette.png": save(rgb.quantize(50), "PNG"),
        "palette_4_bits.png": save(rgb.quantize(9), "PNG", bits=4),
        "palette_transparent.png": save(rgb.quantize(50), "PNG", transparency=bytes(range(50))),
        "grey.png": save(rgb.convert("L"), "PNG"),
        "grey_1_bit.png": save(rgb.convert("1"), "PNG"),
        "grey_transparent.png": save(rgb.convert("L"), "PNG", transparency=40),
        "rgb_transparent.png": save(rgb, "PNG", transparency=tuple(picture()[0, 0].tolist())),
        "grey_alpha.png": save(alpha.convert("LA"), "PNG"),
        "interlaced.png": interlaced(picture()),
        "text.png": with_text(rgb, "Comment", "hello"),
        "xmp_orientation.png": with_text(rgb, "XML:com.adobe.xmp", XMP, international=True),
        "raw_profile.png": with_text(rgb, "Raw profile type exif", f"\nexif\n{len(exif(6)):8d}\n{exif(6).hex()}\n"),
        "gamma.png": raw[:33] + chunk(b"gAMA", struct.pack(">I", 100000)) + raw[33:],
        "background.png": (b := save(alpha, "PNG"))[:33] + chunk(b"bKGD", b"\0\xff\0\0\0\0") + b[33:],
        "late_exif.png": raw[:-12] + chunk(b"eXIf", exif(6)[6:]) + raw[-12:],
        "animated.png": save(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)]),
        "bytes_behind.png": raw + b"x" * 100,
        "a.bmp": save(rgb, "BMP"),
        "grey.bmp": save(rgb.convert("L"), "BMP"),
        "a.tif": save(rgb, "TIFF"),
        "lzw.tif": save(rgb, "TIFF", compression="tiff_lzw"),
        "a.webp": save(rgb, "WEBP"),
        "lossless.webp": save(rgb, "WEBP", lossless=True),
    }
    for i in range(1, 9):
        result |= {f"turned{i}.jpg": save(rgb, "JPEG", exif=exif(i)), f"turned{i}.png": save(rgb, "PNG", exif=exif(i))}
    return result


FILES = files()


@pytest.fixture(params=["kornia", "opencv"])
def decoder(request, monkeypatch):
    """With kornia-rs, and as if it were not installed."""
    if request.param == "kornia":
        pytest.importorskip("kornia_rs")
    else:
        monkeypatch.setattr(images, "_png_decoder", lambda: None)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_detectron2(tmp_path, decoder, name):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    for image_format in ("RGB", "BGR"):
        expected = detection_utils.read_image(str(path), image_format)
        for given in (path, str(path)):
            found = read_image(given, image_format)
            assert (found.dtype, found.shape) == (np.uint8, expected.shape)
            assert np.array_equal(found, expected)
            assert found.flags.writeable
            found[0, 0] = 0


def test_plain_pngs_are_read_by_kornia(tmp_path, monkeypatch):
    pytest.importorskip("kornia_rs")
    (tmp_path / "a.png").write_bytes(FILES["rgb.png"])
    monkeypatch.setattr(images.cv2, "imdecode", lambda *a: pytest.fail("OpenCV was asked"))
    assert np.array_equal(read_image(tmp_path / "a.png"), picture())


def test_older_opencv_gives_the_same(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(FILES["420.jpg"])
    expected = read_image(tmp_path / "a.jpg")
    monkeypatch.delattr(images.cv2, "IMREAD_COLOR_RGB", raising=False)
    assert np.array_equal(read_image(tmp_path / "a.jpg"), expected)


DAMAGES = {
    "empty": lambda data: b"",
    "signature only": lambda data: data[:8],
    "header only": lambda data: data[:25],
    "half": lambda data: data[: len(data) // 2],
    "without its last 100 bytes": lambda data: data[:-100],
    "text": lambda data: b"<html>404</html>",
}


@pytest.mark.parametrize("name", ["420.jpg", "progressive.jpg", "rgb.png", "palette.png", "interlaced.png", "a.webp"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_named(tmp_path, decoder, name, damage):
    path = tmp_path / name
    path.write_bytes(DAMAGES[damage](FILES[name]))
    with pytest.raises(DatasetError, match=rf"{name}: cannot read this image \(") as error:
        read_image(path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["420.jpg", "progressive.jpg", "rgb.png", "grey.png", "rgba.png", "palette.png"])
def test_a_flipped_byte_is_no_other_picture(tmp_path, decoder, name):
    """Pixels are Detectron2's also then, or the file is refused: of PNGs whose pixels are damaged Detectron2 shows the
    rest in black. PNGs that it refuses are refused. Of JPEGs OpenCV reads a few more.
    """
    path, data = tmp_path / name, FILES[name]
    for place in np.linspace(40, len(data) - 1, 40).astype(int):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            expected = detection_utils.read_image(str(path), "RGB")
        except Exception:
            if name.endswith("png"):
                with pytest.raises(DatasetError):
                    read_image(path)
            continue
        try:
            found = read_image(path)
        except DatasetError as err:
            assert name.endswith("png")
            assert "data stream" in str(err)
            assert str(decoding_problem(path)).startswith("damaged")
        else:
            assert np.array_equal(found, expected), place


@pytest.mark.parametrize("checksum", ["right", "wrong"])
def test_a_png_that_claims_a_huge_size_is_named(tmp_path, decoder, checksum):
    header = struct.pack(">IIBBBBB", 1_400_000_000, 61, 8, 2, 0, 0, 0)
    data = FILES["rgb.png"]
    data = data[:8] + chunk(b"IHDR", header) + data[33:] if checksum == "right" else data[:16] + header + data[29:]
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.png: cannot read this image"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["rgb.png", "palette.png", "grey.png"])
def test_a_chunk_that_claims_gigabytes_is_not_waited_for(tmp_path, decoder, monkeypatch, name):
    """OpenCV would reserve and fill 2 GB for a length of 2^31."""
    data = FILES[name]
    monkeypatch.setattr(images.cv2, "imdecode", lambda *a: pytest.fail("OpenCV was asked"))
    for kind in (b"IDAT", b"tEXt"):
        broken = data[:33] + b"\x80\0\0\x30" + kind + data[33:]
        (tmp_path / "a.png").write_bytes(broken)
        with pytest.raises(DatasetError, match=r"a\.png: cannot read this image"):
            read_image(tmp_path / "a.png")


def test_missing_files_are_named(tmp_path):
    for name in ("no.png", "folder"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(DatasetError, match=rf"{name}: cannot read this image"):
            read_image(tmp_path / name)
    with pytest.raises(DatasetError, match=r"no\.png: cannot read this image"):
        DecodedCache(tmp_path / "cache").read(tmp_path / "no.png")


def forbid_reading(monkeypatch) -> None:
    monkeypatch.setattr(images, "read_image", lambda path, **_: pytest.fail(f"{path} is decoded again"))


def entries(cache: DecodedCache) -> list[Path]:
    return sorted(cache.folder.iterdir())


@pytest.mark.parametrize("name", ["420.jpg", "rgb.png", "turned6.jpg", "grey_alpha.png"])
def test_cached_pixels_are_the_same_and_decoded_once(tmp_path, monkeypatch, name):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    cache, expected = DecodedCache(tmp_path / "deep" / "cache"), read_image(path)
    assert np.array_equal(cache.read(path), expected)
    forbid_reading(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for again in (cache, DecodedCache(str(cache.folder))):
        for given in (path, str(path), name):
            found = again.read(given)
            assert (found.dtype, found.shape, found.flags.writeable) == (np.uint8, expected.shape, True)
            assert np.array_equal(found, expected)
    assert len(entries(cache)) == 1


def test_writing_into_a_result_does_not_change_the_cache(tmp_path):
    (tmp_path / "a.png").write_bytes(FILES["rgb.png"])
    cache = DecodedCache(tmp_path / "cache")
    for _ in range(3):
        found = cache.read(tmp_path / "a.png")
        assert np.array_equal(found, picture())
        found[:] = 7


def test_a_changed_file_is_decoded_anew(tmp_path):
    path, cache = tmp_path / "a.png", DecodedCache(tmp_path / "cache")
    path.write_bytes(FILES["rgb.png"])
    first = cache.read(path)
    for i in range(3):  # the size stays, the time changes
        changed = picture()
        changed[0, i] = 99
        path.write_bytes(cv2.imencode(".png", changed[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes())
        os.utime(path, (1000 + i, 1000 + i))
        assert np.array_equal(cache.read(path), changed)
    assert np.array_equal(first, picture())  # what was handed out stays


def test_equal_names_in_two_folders_stay_apart(tmp_path):
    cache = DecodedCache(tmp_path / "cache")
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), np.full((8, 8, 3), int(name), np.uint8))
        os.utime(tmp_path / name / "a.png", (1000, 1000))
    assert [int(cache.read(tmp_path / n / "a.png")[0, 0, 0]) for n in ("1", "2")] == [1, 2]


def test_the_size_limit_is_respected(tmp_path, caplog):
    """Images of 61 × 83 × 3 = 15,189 bytes and a limit of 40,000: two fit."""
    cache = DecodedCache(tmp_path / "cache", max_gb=40_000 / 1e9)
    with caplog.at_level(logging.WARNING):
        for i in range(4):
            (tmp_path / f"{i}.png").write_bytes(FILES["rgb.png"])
            assert np.array_equal(cache.read(tmp_path / f"{i}.png"), picture())
            assert ("reached its limit" in caplog.text) == (i >= 1)
    assert len(entries(cache)) == 2
    assert sum(f.stat().st_size for f in entries(cache)) <= 40_000
    later = DecodedCache(tmp_path / "cache", max_gb=40_000 / 1e9)  # counts what is there
    later.read(tmp_path / "3.png")
    assert len(entries(cache)) == 2
    for bad in (0, -1.0):
        with pytest.raises(ConfigError, match="max_gb must be positive"):
            DecodedCache(tmp_path / "cache", bad)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\0", b"garbage" * 9, None])
def test_a_damaged_entry_is_written_anew(tmp_path, monkeypatch, caplog, damage):
    (tmp_path / "a.png").write_bytes(FILES["rgb.png"])
    cache = DecodedCache(tmp_path / "cache")
    cache.read(tmp_path / "a.png")
    (entry,) = entries(cache)
    entry.write_bytes(entry.read_bytes()[:-100] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(cache.read(tmp_path / "a.png"), picture())
    assert "damaged, written anew" in caplog.text
    forbid_reading(monkeypatch)
    assert np.array_equal(cache.read(tmp_path / "a.png"), picture())


def test_a_crop_of_a_cached_image(tmp_path):
    (tmp_path / "a.png").write_bytes(FILES["rgb.png"])
    cache = DecodedCache(tmp_path / "cache")
    cache.read(tmp_path / "a.png")
    crop = cache.read(tmp_path / "a.png")[10:30, 20:50]
    assert np.array_equal(crop, picture()[10:30, 20:50])
    crop += 1
    assert np.array_equal(cache.read(tmp_path / "a.png"), picture())


def record(path: Path, count: int, seed: int = 0, crowd: bool = True) -> dict:
    """Boxes anywhere inside a picture, with fractions of a pixel."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, (75, 55), (count, 2))
    sides = np.minimum(rng.uniform(1, 9, (count, 2)), (83, 61) - corners)
    annotations = [
        {"bbox": [*map(float, c), *map(float, s)], "bbox_mode": 1, "category_id": i % 8, "iscrowd": int(i % 5 == 4)}
        for i, (c, s) in enumerate(zip(corners, sides, strict=True))
    ]
    for annotation in annotations:
        annotation["iscrowd"] *= int(crowd)
    return {"file_name": str(path), "image_id": 1, "height": 61, "width": 83, "annotations": annotations}


@pytest.mark.parametrize("count", [0, 1, 400])
@pytest.mark.parametrize("cached", [False, True])
def test_mapper_equals_that_of_detectron2(tmp_path, count, cached):
    path = tmp_path / "a.png"
    path.write_bytes(FILES["rgb.png"])
    item = record(path, count)
    for i, image_format in enumerate(("RGB", "BGR") * 2):
        flips = [T.RandomFlip(horizontal=True, vertical=False), T.RandomFlip(horizontal=False, vertical=True)][: 1 + i]
        stock = DatasetMapper(is_train=True, augmentations=flips, image_format=image_format)
        ours = TinyDatasetMapper(
            is_train=True,
            augmentations=flips,
            image_format=image_format,
            ignore_regions=False,
            cache_dir=tmp_path / "cache" if cached else None,
        )
        for seed in range(6):
            np.random.seed(seed)
            expected = stock(item)
            np.random.seed(seed)
            found = ours(item)
            assert torch.equal(found["image"], expected["image"])
            assert found["image"].is_contiguous()
            assert torch.equal(found["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor)
            assert torch.equal(found["instances"].gt_classes, expected["instances"].gt_classes)
            assert found["instances"].image_size == expected["instances"].image_size
    assert len(item["annotations"]) == count  # not modified


def test_mapper_with_a_cache_equals_that_without(tmp_path, monkeypatch):
    augmentations = [ObjectCrop((40, 40)), T.RandomFlip(), T.RandomBrightness(0.5, 1.5)]
    plain = TinyDatasetMapper(is_train=True, augmentations=augmentations)
    cached = TinyDatasetMapper(is_train=True, augmentations=augmentations, cache_dir=tmp_path / "cache")
    items = []
    for i, name in enumerate(("420.jpg", "rgb.png", "grey_alpha.png")):
        (tmp_path / name).write_bytes(FILES[name])
        items.append(record(tmp_path / name, 20, seed=i))
    for seed in range(5):
        for item in items:
            np.random.seed(seed)
            expected = plain(item)
            np.random.seed(seed)
            found = cached(item)
            assert torch.equal(found["image"], expected["image"])
            assert torch.equal(found["instances"].gt_boxes.tensor, expected["instances"].gt_boxes.tensor)
            assert torch.equal(found["instances"].gt_ignore, expected["instances"].gt_ignore)
            assert found["dropped"] == expected["dropped"]
    assert len(list((tmp_path / "cache").iterdir())) == 3
    forbid_reading(monkeypatch)
    monkeypatch.setattr("d2tiny.data.loading.mapper.read_image", images.read_image)
    cached(items[0])


class Changed(T.Augmentation):
    """Any function of the pixels."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def get_transform(self, image):
        return T.ColorTransform(self.change)


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:, ::-1],
        lambda a: a[::-1],
        lambda a: a[::-1, ::-1],
        lambda a: a[:, :, ::-1],
        lambda a: np.rot90(a),
        lambda a: np.rot90(a, 3),
        lambda a: a[3:40, 5:60],
        lambda a: a[::2, ::-2],
        lambda a: a[:1, :1],
    ],
)
def test_mapper_takes_any_view_of_the_pixels(tmp_path, view):
    (tmp_path / "a.png").write_bytes(FILES["rgb.png"])
    item = record(tmp_path / "a.png", 0)
    found = TinyDatasetMapper(is_train=True, augmentations=[Changed(view)])(item)["image"]
    assert np.array_equal(found.numpy(), view(picture()).transpose(2, 0, 1))
    assert found.is_contiguous()


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_mapper_keeps_or_refuses_other_types(tmp_path, dtype):
    """An augmentation that returns other numbers must not end as an image of whatever lay in memory."""
    (tmp_path / "a.png").write_bytes(FILES["rgb.png"])
    mapper = TinyDatasetMapper(is_train=True, augmentations=[Changed(lambda a: a.astype(dtype))])
    try:
        found = mapper(record(tmp_path / "a.png", 0))["image"]
    except (DatasetError, TypeError, ValueError) as err:
        assert np.dtype(dtype).name in str(err)
        return
    assert np.array_equal(found.numpy(), picture().transpose(2, 0, 1))


def test_mapper_refuses_unknown_formats():
    with pytest.raises(ValueError, match="'RGB' or 'BGR', got 'L'"):
        TinyDatasetMapper(is_train=True, image_format="L")


def test_mapper_refuses_fields_of_different_lengths(tmp_path):
    class Adds(T.Augmentation):
        def __call__(self, aug_input):
            aug_input.boxes = np.concatenate((aug_input.boxes, [[1.0, 1, 5, 5]]))
            return T.NoOpTransform()

    (tmp_path / "a.png").write_bytes(FILES["rgb.png"])
    with pytest.raises(DatasetError, match="left 4 boxes, 3 classes and 3 ignore flags"):
        TinyDatasetMapper(is_train=True, augmentations=[Adds()])(record(tmp_path / "a.png", 3))
