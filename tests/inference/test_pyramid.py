from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from d2tiny.inference.pyramid import TilePyramid, reduced_rows, reduction


class Picture:
    """An image in memory that is read in bands, and says how far and how much at once."""

    def __init__(self, image):
        self.image, self.read, self.most = image, 0, 0
        self.height, self.width = image.shape[:2]

    def rows(self, first, last):
        assert first == self.read < last <= self.height
        self.read, self.most = last, max(self.most, last - first)
        return self.image[first:last]


def noise(height, width):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def by_areas(image, factor):
    """Mean over the area of each pixel: enlarged by the numerator, then averaged over squares of the denominator."""
    p, q = factor.numerator, factor.denominator
    height, width = (-(-side * p // q) for side in image.shape[:2])
    large = image.repeat(p, 0).repeat(p, 1).astype(float)
    large = np.pad(large, ((0, height * q - large.shape[0]), (0, width * q - large.shape[1]), (0, 0)), mode="edge")
    return large.reshape(height, q, width, q, 3).mean((1, 3))


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((800, 600), 800, Fraction(1)),
        ((20_000, 20_000), 8192, Fraction(2, 5)),
        ((9000, 100), 8192, Fraction(10, 11)),
        ((100, 16_384), 8192, Fraction(1, 2)),
        ((200_000, 100), 8192, Fraction(1, 25)),
    ],
)
def test_reduction(size, side, expected):
    assert reduction(*size, side) == expected


def test_reduction_uses_most_of_the_side():
    for longest in range(301, 12_000, 7):
        factor = reduction(longest, 5, 300)
        assert 300 * 7 / 8 <= longest * factor <= 300


@pytest.mark.parametrize("size", [(700, 90), (701, 91), (1, 37), (640, 1)])
@pytest.mark.parametrize("factor", [Fraction(1), Fraction(1, 2), Fraction(2, 5), Fraction(10, 11), Fraction(1, 25)])
def test_rows_are_means_over_areas_without_seams_between_bands(size, factor):
    picture = Picture(noise(*size))
    rows = np.concatenate(list(reduced_rows(picture, factor)))
    assert picture.read == size[0]
    assert picture.most <= 256
    expected = by_areas(picture.image, factor)
    assert rows.shape == expected.shape
    assert np.abs(rows - expected).max() <= 0.51  # rounded


def levels(image, tile, steps):
    """Build a pyramid and put its tiles together again, level by level."""
    tiles = {}
    pyramid = TilePyramid(image.shape[1], image.shape[0], lambda *t: tiles.update({t[:3]: t[3].copy()}), tile=tile)
    for rows in np.array_split(image, steps):
        pyramid.add(rows)
    pyramid.close()
    result = []
    for level in range(pyramid.levels):
        columns, rows = (1 + max(t[axis] for t in tiles if t[0] == level) for axis in (1, 2))
        whole = [np.concatenate([tiles.pop((level, x, y)) for x in range(columns)], axis=1) for y in range(rows)]
        result.append(np.concatenate(whole))
    assert not tiles
    return result


@pytest.mark.parametrize("size", [(100, 130), (65, 257), (16, 16), (1, 300), (31, 17), (33, 33)])
@pytest.mark.parametrize("steps", [1, 7])
def test_pyramid(size, steps):
    image = noise(*size)
    found = levels(image, 16, steps)
    assert np.array_equal(found[-1], image)
    assert max(found[0].shape) <= 16
    for small, large in pairwise(found):
        expected = by_areas(large, Fraction(1, 2))
        assert small.shape == expected.shape
        assert np.abs(small - expected).max() <= 0.51
        assert max(large.shape) > 16


def test_tiles_come_as_soon_as_they_are_complete():
    seen = []
    pyramid = TilePyramid(40, 1000, lambda *tile: seen.append(tile[:3]), tile=16)
    pyramid.add(noise(32, 40))
    last = pyramid.levels - 1
    assert seen == [(last, x, y) for y in (0, 1) for x in (0, 1, 2)] + [(last - 1, x, 0) for x in (0, 1)]
