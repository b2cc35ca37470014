"""Pictures by OpenCV and, where it is not installed, by Pillow."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from d2tiny.data.loading import images
from d2tiny.utils import pictures


@pytest.fixture(params=["OpenCV", "Pillow"])
def library(request, monkeypatch):
    if request.param == "Pillow":
        monkeypatch.setattr(pictures, "cv2", None)
    return request.param


@pytest.fixture
def picture():
    y, x = np.mgrid[:90, :130]
    return np.stack((x, y * 2, (x + y) // 2), axis=2).astype(np.uint8)


def test_a_larger_picture_is_the_picture(picture, library):
    large = pictures.enlarge(picture, 3)
    assert (large.shape, large.dtype) == ((270, 390, 3), np.uint8)
    middle = large[1::3, 1::3].astype(int)
    assert np.abs(middle - picture).max() <= 2
    copy = pictures.enlarge(picture, 1)
    copy[:] = 0
    assert picture.any()


def test_areas_are_averaged(picture, library):
    small = pictures.reduce_area(picture, 65, 45)
    mean = picture.reshape(45, 2, 65, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - mean).max() <= 1
    np.testing.assert_allclose(
        pictures.reduce_area(picture[:, ::-1], 78, 54).mean(axis=(0, 1)), picture.mean(axis=(0, 1)), atol=1
    )


def test_edges_are_repeated(picture):
    padded = pictures.pad_edges(picture, 3, 2)
    np.testing.assert_array_equal(padded[:90, :130], picture)
    np.testing.assert_array_equal(padded[90:, :130], np.repeat(picture[-1:], 3, axis=0))
    np.testing.assert_array_equal(padded[:, 130:], np.repeat(padded[:, 129:130], 2, axis=1))


@pytest.mark.parametrize("sharp", [False, True])
def test_jpegs_in_rgb(picture, library, sharp):
    data = pictures.encode_jpeg(picture, 92, sharp_colours=sharp)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        assert np.abs(np.asarray(image).astype(int) - picture).mean() < 2
        assert image.layer[0][1:3] == ((1, 1) if sharp else (2, 2))  # sampling of the brightness against the colours
    with pytest.raises(OSError, match="cannot be encoded as JPEG"):
        pictures.encode_jpeg(np.zeros((1, 70_000, 3), np.uint8), 90)


def test_outlines_are_those_of_opencv():
    rng = np.random.default_rng(0)
    ours, theirs = (np.zeros((60, 80, 3), np.uint8) for _ in range(2))
    for _ in range(200):
        x0, y0, x1, y1 = rng.integers(-30, 110, 4).tolist()
        color = tuple(rng.integers(1, 255, 3).tolist())
        pictures.draw_outline(ours, (x0, y0, x1, y1), color)
        cv2.rectangle(theirs, (x0, y0), (x1, y1), color, 1)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_are_read_to_the_same_pixels_without_opencv(tmp_path, monkeypatch, suffix, mode):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (17, 23, 3), dtype=np.uint8)).resize((231, 173)).convert(mode)
    path = tmp_path / f"a.{suffix}"
    small.save(path)
    want = [images.read_image(path, order) for order in ("RGB", "BGR")]
    monkeypatch.setattr(images, "cv2", None)
    monkeypatch.setattr(images, "_png_decoder", lambda: None)
    for order, one in zip(("RGB", "BGR"), want, strict=True):
        np.testing.assert_array_equal(images.read_image(path, order), one)
