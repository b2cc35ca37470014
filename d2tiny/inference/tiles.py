"""Where the tiles of a scene lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from d2tiny.utils.errors import ConfigError

__all__ = ["STRIDE", "TileGrid"]

# Tiles start at multiples of it, so that the cells of the feature maps lie in a tile as they lie in the whole scene.
STRIDE = 32


@dataclass(frozen=True)
class TileGrid:
    """Square tiles that cover a scene in rows and columns and overlap.

    Tiles start at multiples of 32 px. The last ones end at the border of the scene, and overlap more with those before
    them.

    Attributes:
        width: of the scene in px.
        height: likewise.
        tile: side of a tile in px; a side of the scene that is shorter is not cut.
        overlap: least overlap of neighbours in px.
    """

    width: int
    height: int
    tile: int
    overlap: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ConfigError(f"A scene needs pixels, got {self.width}x{self.height}.")
        if self.tile < 2 * STRIDE or self.tile % STRIDE:
            below = max(self.tile // STRIDE, 2) * STRIDE
            raise ConfigError(
                f"Tiles need a side of at least {2 * STRIDE} px that is a multiple of {STRIDE}, got {self.tile}: take "
                f"{below} or {below + STRIDE}."
            )
        if not 0 <= self.overlap <= self.tile // 2:
            raise ConfigError(
                f"Tiles of {self.tile} px need an overlap between 0 and half of their side, got {self.overlap}."
            )

    @cached_property
    def columns(self) -> list[tuple[int, int]]:
        """First and last (excluded) px of each column of tiles."""
        return _spans(self.width, self.tile, self.overlap)

    @cached_property
    def rows(self) -> list[tuple[int, int]]:
        """First and last (excluded) px of each row of tiles."""
        return _spans(self.height, self.tile, self.overlap)

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.columns) * len(self.rows)

    def window(self, index: int) -> tuple[int, int, int, int]:
        """Return a tile (x0, y0, x1, y1) in px; tiles are counted row by row."""
        row, column = divmod(index, len(self.columns))
        (x0, x1), (y0, y1) = self.columns[column], self.rows[row]
        return x0, y0, x1, y1

    def units(self, batch: int) -> list[range]:
        """Return runs of at most ``batch`` neighbouring tiles of a row, which are looked at together."""
        columns = len(self.columns)
        return [
            range(row * columns + first, row * columns + min(first + batch, columns))
            for row in range(len(self.rows))
            for first in range(0, columns, batch)
        ]

    @cached_property
    def windows(self) -> np.ndarray:
        """All tiles, (M, 4) float64."""
        return np.array([self.window(i) for i in range(len(self))], dtype=np.float64)


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Return the tiles along one side."""
    step = max(STRIDE, (tile - overlap) // STRIDE * STRIDE)
    starts = [0]
    while starts[-1] + tile < length:
        # The last one is moved back, so that it is as large as the others up to the alignment.
        starts.append(min(starts[-1] + step, math.ceil((length - tile) / STRIDE) * STRIDE))
    return [(start, min(start + tile, length)) for start in starts]
