"""Doors of images and arrays: every format through every reader, tiles, predictions."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from detectron2.engine import DefaultPredictor
from PIL import Image

from d2tiny import model_zoo
from d2tiny.data.coco.check import check_json
from d2tiny.data.loading.headers import decoding_problem, image_problem, read_header
from d2tiny.data.loading.images import read_image
from d2tiny.data.loading.raster import RasterReader
from d2tiny.data.tools.tiling import TileSettings, tile_dataset
from d2tiny.inference import collect_scenes, predict_folder
from d2tiny.utils.errors import D2TinyError
from tests.helpers.door import COCO, Door, of_bytes, of_json
from tests.helpers.native import picture

TILES = TileSettings(size=64, overlap=16)
GOOD_COCO = {**COCO, "annotations": COCO["annotations"][:1]}


def _exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _pixels():
    """Return an image that every format compresses, of steps and a little noise."""
    rng = np.random.default_rng(0)
    steps = np.kron(rng.integers(0, 255, (8, 10, 3)), np.ones((10, 10, 1)))
    return (steps + rng.integers(0, 3, steps.shape)).clip(0, 255).astype(np.uint8)


@functools.cache
def encoded():
    """Return a good file of each format, by name."""
    rgb = Image.fromarray(_pixels())
    deep = Image.fromarray(_pixels()[..., 0].astype(np.uint16) * 16)
    files = {
        "png": (rgb, {"format": "PNG", "exif": _exif(6)}),
        "png, palette": (rgb.quantize(16), {"format": "PNG", "transparency": 0}),
        "png, 16 bits": (deep, {"format": "PNG"}),
        "jpeg": (rgb, {"format": "JPEG", "exif": _exif(8)}),
        "jpeg, progressive": (rgb, {"format": "JPEG", "progressive": True, "quality": 30}),
        "jpeg, cmyk": (rgb.convert("CMYK"), {"format": "JPEG"}),
        "tiff": (rgb, {"format": "TIFF", "tiffinfo": {274: 6}}),
        "tiff, lzw": (rgb, {"format": "TIFF", "compression": "tiff_lzw"}),
        "tiff, jpeg": (rgb, {"format": "TIFF", "compression": "jpeg"}),
        "tiff, big": (rgb, {"format": "TIFF", "big_tiff": True}),
        "tiff, 16 bits": (deep, {"format": "TIFF"}),
        "tiff, pages": (rgb, {"format": "TIFF", "save_all": True, "append_images": [rgb]}),
        "bmp": (rgb, {"format": "BMP"}),
        "webp": (rgb, {"format": "WEBP"}),
        "pnm": (rgb, {"format": "PPM"}),
        "gif": (rgb.quantize(16), {"format": "GIF"}),
        "jpeg 2000": (rgb, {"format": "JPEG2000"}),
    }
    return {name: _encode(image, options) for name, (image, options) in files.items()}


def _encode(image, options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def _any(rng):
    contents = list(encoded().values())
    return of_bytes(*contents)(rng)


def _read(root):
    """Read an image by every reader; they agree on its size, and on whether it can be read."""
    path = root / "image"
    for stretch in (None, "0,4095"):
        pixels = _outcome(lambda stretch=stretch: read_image(path, stretch=stretch))
        try:
            size = read_header(path).size
        except (OSError, ValueError):
            assert isinstance(pixels, D2TinyError), "decoded, but without a header"
            continue
        problem = image_problem(str(path), *size, stretch) or decoding_problem(path, stretch)
        if isinstance(pixels, D2TinyError):
            assert problem, f"check accepts it, but {pixels}"
        else:
            assert pixels.shape == (size[1], size[0], 3), f"decoded {pixels.shape}, header {size}"
        rows = _outcome(lambda stretch=stretch: _rows(path, stretch))
        if not isinstance(pixels, D2TinyError):
            assert np.array_equal(rows, pixels), f"rows are others: {rows}"


def _outcome(call):
    try:
        return call()
    except D2TinyError as err:
        assert str(err)
        return err


def _rows(path, stretch):
    with RasterReader(path, stretch=stretch) as reader:
        return reader.rows(0, reader.height)


def _tile(root, file="coco.json"):
    shutil.rmtree(root / "tiles", ignore_errors=True)
    return tile_dataset(root / file, root, root / "tiles", TILES, progress=False)


def _parts(root):
    """Cut with what an earlier run stored, which somebody changed: the tiles are those of a run from nothing."""
    cut, expected = (
        tile_dataset(root / "right.json", root, root / "tiles" / name, TILES, progress=False)
        for name in ("cut", "expected")
    )
    assert cut == expected
    for image in cut["images"]:
        assert (root / "tiles" / "cut" / "images" / image["file_name"]).is_file()


@functools.cache
def _stored():
    """Return what tiling stores of the first image of ``right.json``."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for i in (1, 2):
            picture(root / f"{i}.png")
        _write_right(root)
        tile_dataset(root / "right.json", root, root / "tiles", TILES, progress=False)
        return json.loads((root / "tiles" / ".parts" / "1.json").read_text())


def _write_right(root):
    """Write a json, and give its images a time that stored tiles know."""
    (root / "right.json").write_text(json.dumps(GOOD_COCO))
    for i in (1, 2):
        os.utime(root / f"{i}.png", ns=(10**18, 10**18))


def _check(root):
    return check_json(root / "right.json", root, decode=True, progress=False)


KINDS = "?bBhHilLefdFDO"


def _array(rng):
    """Return the recipe of an array: seed, in eight bytes."""
    return int(rng.integers(2**62)).to_bytes(8, "little")


def _image_like(rng):
    """Return an array that may be an image: any shape, order in memory and kind of number."""
    shape = tuple(rng.choice([0, 1, 3, 4, 16, 40], int(rng.integers(0, 5))))
    if rng.integers(2):
        shape = (int(rng.integers(1, 40)), int(rng.integers(1, 40)), 3)
    values = rng.random(shape) * rng.choice([1, 255, 4000, -1, np.nan, np.inf])
    with np.errstate(all="ignore"):
        array = np.asarray(values).astype(rng.choice(list(KINDS)))
    array = array[tuple(slice(None, None, int(rng.choice([-1, 1, 2]))) for _ in array.shape)]
    odd = rng.integers(14)
    if odd < 4:
        return [np.asarray(array).tolist(), None, "1.png", np.ma.masked_array(array)][odd]
    if odd == 4 and array.dtype.kind in "biuf" and array.dtype.isnative:
        return torch.as_tensor(array.copy())
    return array.astype(array.dtype.newbyteorder(">")) if odd == 5 else array


@functools.cache
def _predictor():
    return DefaultPredictor(model_zoo.get_cfg("quick/yolox_s", device="cpu"))


def _predict_array(root):
    rng = np.random.default_rng(int.from_bytes((root / "array").read_bytes(), "little"))
    array = _image_like(rng)
    found = _predictor()(array)["instances"]
    assert found.image_size == array.shape[:2]
    assert torch.isfinite(found.pred_boxes.tensor).all()


def _predict_folder(root):
    cfg = model_zoo.get_cfg("quick/yolox_s", device="cpu", overrides=["model.head.score_thresh=0.9"])
    shutil.rmtree(root / "found", ignore_errors=True)
    failed = predict_folder(cfg, [str(root / "predict")], root / "found", progress=False)
    assert len(failed) < 2, failed
    assert (root / "found" / "detections.json").is_file()


def _inputs(root):
    text = (root / "inputs.txt").read_bytes().decode("utf-8", "surrogateescape")
    return collect_scenes([text.replace("ROOT", str(root))])


GLOBS = [b"*", b"[", b"]", b"?", b"\x00", b"\xff", b"~", b"..", b"//", b"a" * 300, b"\n"]
DOORS = {
    "image": Door("image", _any, _read),
    "check with images": Door("1.png", _any, _check),
    "tile": Door("coco.json", of_json(COCO), _tile, writes="tiles"),
    "tile images": Door("1.png", _any, lambda root: _tile(root, "right.json"), writes="tiles", every=2),
    "tile parts": Door("tiles/cut/.parts/1.json", lambda rng: of_json(_stored())(rng), _parts, writes="tiles", every=4),
    "array": Door("array", _array, _predict_array, every=2),
    "predict": Door("predict/a.png", _any, _predict_folder, writes="found", every=20),
    "inputs": Door("inputs.txt", of_bytes(b"ROOT/*.png", b"ROOT/1.png", b"ROOT", tokens=GLOBS), _inputs),
}


def prepare(root):
    """Write the good files of these doors."""
    _write_right(root)
    (root / "tiles").mkdir()
    (root / "predict").mkdir()
    Image.fromarray(_pixels()).save(root / "predict" / "b.png")
