"""Smaller versions of images of any size, in one pass from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Protocol

import numpy as np

from d2tiny.utils.pictures import pad_edges, reduce_area

__all__ = ["Pixels", "TilePyramid", "reduced_rows", "reduction"]

_BAND_PIXELS = 6 << 20  # of the image, read at once
_BAND_ROWS = 256
_LARGEST_DENOMINATOR = 16


class Pixels(Protocol):
    """An image that is read in bands of rows, such as :class:`~d2tiny.data.loading.raster.RasterReader`.

    Attributes:
        width: in px.
        height: in px.
    """

    width: int
    height: int

    def rows(self, first: int, last: int) -> np.ndarray:
        """Return rows ``first`` to ``last`` (excluded) as (rows, W, 3) uint8 RGB."""
        ...


def reduction(width: int, height: int, side: int) -> Fraction:
    """Return the factor, at most 1, by which the longer side of an image becomes at most ``side`` px.

    The denominator is at most 16 up to a reduction by 16, so that few whole rows of the image make whole rows of the
    result, and the result is at least 7/8 of ``side``; beyond, it is 1/n.
    """
    longest = max(width, height)
    if longest <= side:
        return Fraction(1)
    wanted = Fraction(side, longest)
    parts = (Fraction(math.floor(wanted * q), q) for q in range(1, _LARGEST_DENOMINATOR + 1))
    return max(max(parts), Fraction(1, math.ceil(1 / wanted)))


def reduced_rows(pixels: Pixels, factor: Fraction) -> Iterator[np.ndarray]:
    """Yield an image, reduced by area averaging, in bands of rows from top to bottom.

    Pixel (x, y) of the image lies at ``factor`` times (x, y), the same in both directions and to the last row. Beyond
    the right and the bottom edge the last pixels are repeated.

    Args:
        pixels: the image, W × H.
        factor: at most 1, see :func:`reduction`.

    Yields:
        (rows, ceil(W·factor), 3) uint8 RGB, ceil(H·factor) rows in all; not to be modified.
    """
    p, q = factor.numerator, factor.denominator
    width, height = math.ceil(pixels.width * factor), math.ceil(pixels.height * factor)
    step = q * max(1, min(_BAND_ROWS, _BAND_PIXELS // max(1, pixels.width)) // q)
    for first in range(0, pixels.height, step):
        band = pixels.rows(first, min(first + step, pixels.height))
        if factor == 1:
            yield band
            continue
        below, right = -band.shape[0] % q, -band.shape[1] % q
        band = pad_edges(band, below, right)
        small = reduce_area(band, band.shape[1] // q * p, band.shape[0] // q * p)
        yield small[: height - first // q * p, :width]


class TilePyramid:
    """An image, its half, its quarter, ... cut into square tiles, while its rows come in.

    Each level holds at most one row of tiles. The smallest level is a single tile. A level has the sizes of the larger
    one, halved and rounded up, as OpenSeadragon counts.

    Attributes:
        levels: number of levels; level 0 is the smallest, the last one the image.
    """

    def __init__(
        self, width: int, height: int, emit: Callable[[int, int, int, np.ndarray], None], *, tile: int = 512
    ) -> None:
        """Start a pyramid.

        Args:
            width: of the image in px.
            height: of the image in px.
            emit: gets level, column, row and pixels (h, w, 3) of each tile as soon as it is complete.
            tile: side of the tiles in px, even.
        """
        self._tile, self._emit = tile, emit
        self.levels = 1 + max(0, math.ceil(math.log2(max(width, height) / tile)))
        widths = [width]
        while len(widths) < self.levels:
            widths.append(-(-widths[-1] // 2))
        self._buffers = [np.empty((tile, w, 3), dtype=np.uint8) for w in reversed(widths)]
        self._filled, self._row = [0] * self.levels, [0] * self.levels

    def add(self, rows: np.ndarray) -> None:
        """Add the next rows (rows, W, 3) of the image."""
        self._add(self.levels - 1, rows)

    def close(self) -> None:
        """Emit what is left, when all rows have been added."""
        for level in reversed(range(self.levels)):
            if self._filled[level]:
                self._flush(level)

    def _add(self, level: int, rows: np.ndarray) -> None:
        while len(rows):
            start = self._filled[level]
            taken = rows[: self._tile - start]
            self._buffers[level][start : start + len(taken)] = taken
            self._filled[level] += len(taken)
            if self._filled[level] == self._tile:
                self._flush(level)
            rows = rows[len(taken) :]

    def _flush(self, level: int) -> None:
        """Emit a row of tiles, and pass its half to the smaller level."""
        band, tile = self._buffers[level][: self._filled[level]], self._tile
        for column, x in enumerate(range(0, band.shape[1], tile)):
            self._emit(level, column, self._row[level], band[:, x : x + tile])
        self._filled[level] = 0
        self._row[level] += 1
        if level:
            below, right = band.shape[0] % 2, band.shape[1] % 2
            band = pad_edges(band, below, right)
            self._add(level - 1, reduce_area(band, band.shape[1] // 2, band.shape[0] // 2))
