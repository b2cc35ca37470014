"""A scene cut into units of work: what is read of it, what is kept of what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from d2tiny.inference.merge import Views
from d2tiny.inference.raster import ScenePixels
from d2tiny.inference.tiles import TileGrid
from d2tiny.utils.errors import ConfigError

if TYPE_CHECKING:
    from detectron2.structures import Instances

    from d2tiny.inference.area import PixelArea

__all__ = ["SceneTask", "UnitFound", "Window", "area_in", "read_ahead"]

_READ_AHEAD = 2  # units that are read while the model works
_U = TypeVar("_U")
_W = TypeVar("_W")


class UnitFound(NamedTuple):
    """What was found in some tiles, in single precision, as models give it.

    Attributes:
        tiles: (N,) int32, the tile of each box.
        boxes: (N, 4) float32, XYXY in px of the tile.
        scores: (N,) float32.
        classes: (N,) int32.
    """

    tiles: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[UnitFound]) -> UnitFound:
        """Return several as one."""
        nothing = cls(
            np.zeros(0, np.int32), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)
        )
        return cls(*(np.concatenate(arrays) for arrays in zip(nothing, *parts, strict=True)))

    def of_tile(self, tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return boxes, scores and classes of one tile."""
        own = self.tiles == tile
        return self.boxes[own], self.scores[own], self.classes[own]


class Window(NamedTuple):
    """A tile that was read.

    Attributes:
        tile: its number.
        image: (h, w, 3) uint8 RGB; None if nothing is to be found there.
        valid: (h, w), which pixels have data; None if all have.
        inside: tells of boxes in px of the tile whether their centre is in the area that is searched; None for all.
    """

    tile: int
    image: Any
    valid: np.ndarray | None
    inside: Callable[[np.ndarray], np.ndarray] | None

    def accepted(self, instances: Instances) -> UnitFound:
        """Return the objects that have data in half of their box, and their centre in the area."""
        boxes = instances.pred_boxes.tensor.float().numpy()
        kept = np.ones(len(boxes), np.bool_)
        if self.valid is not None:
            kept &= _share_of_data(boxes, self.valid) >= 0.5
        if self.inside is not None:
            kept &= self.inside(boxes)
        scores, classes = instances.scores.float().numpy(), instances.pred_classes.numpy().astype(np.int32)
        return UnitFound(np.full(int(kept.sum()), self.tile, np.int32), boxes[kept], scores[kept], classes[kept])


def _share_of_data(boxes: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the share (N,) of the pixels that boxes (N, 4) touch that have data (h, w)."""
    height, width = valid.shape
    total = np.pad(valid.cumsum(axis=0, dtype=np.int64).cumsum(axis=1), ((1, 0), (1, 0)))
    x0 = np.floor(boxes[:, 0]).astype(np.int64).clip(0, width - 1)
    y0 = np.floor(boxes[:, 1]).astype(np.int64).clip(0, height - 1)
    x1 = np.ceil(boxes[:, 2]).astype(np.int64).clip(x0 + 1, width)
    y1 = np.ceil(boxes[:, 3]).astype(np.int64).clip(y0 + 1, height)
    data = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
    return data / ((x1 - x0) * (y1 - y0))


def area_in(pixels: ScenePixels, aoi: str | Path | None) -> PixelArea | None:
    """Return the area that is searched in a scene, in px of its file.

    Raises:
        ConfigError: the scene has no coordinates, or lies outside.
        DatasetError: the file of the area cannot be read.
        ImportError: reading it needs an extra that is not installed.
    """
    if aoi is None:
        return None
    from d2tiny.inference.area import read_area

    if pixels.geo is None:
        raise ConfigError(f"--aoi {aoi}: this image has no coordinates; leave it out.")
    return read_area(aoi).in_pixels(pixels.geo, *pixels.file_size)


class SceneTask:
    """The units of work of one scene."""

    def __init__(self, pixels: ScenePixels, grid: TileGrid, area: PixelArea | None = None) -> None:
        """Combine a scene, its tiles, and the area that is searched."""
        self.pixels, self.grid, self.area = pixels, grid, area

    @property
    def whole(self) -> bool:
        """Whether one tile is the whole scene."""
        return len(self.grid) == 1

    def read(self, unit: Sequence[int]) -> list[Window]:
        """Read the tiles of a unit.

        Raises:
            DatasetError: the file is damaged here.
        """
        return [self._window(tile) for tile in unit]

    def _window(self, tile: int) -> Window:
        x0, y0, x1, y1 = window = self.grid.window(tile)
        (sx, sy), area = self.pixels.scale, self.area
        if area is not None and not area.meets(x0 * sx, y0 * sy, x1 * sx, y1 * sy):
            return Window(tile, None, None, None)
        valid = self.pixels.valid(*window)
        if valid is not None and not valid.any():
            return Window(tile, None, None, None)
        inside = None
        if area is not None:
            offset, scale = np.array((x0, y0, x0, y0), np.float64), np.array((sx, sy, sx, sy))
            inside = lambda boxes: area.contains_centres((boxes + offset) * scale)  # noqa: E731
        return Window(tile, self.pixels.read(*window), valid, inside)

    def in_file(self, views: Views) -> Views:
        """Return objects in px of the file instead of those that were looked at."""
        return views._replace(boxes=views.boxes * np.array(self.pixels.scale * 2))


def read_ahead(items: Iterable[_U], read: Callable[[_U], _W]) -> Iterator[tuple[_U, _W]]:
    """Yield items and what is read of them, in order; a thread reads the next ones meanwhile."""
    waiting: list[tuple[_U, Future[_W]]] = []
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(read, item)))
                if len(waiting) > _READ_AHEAD:
                    first, future = waiting.pop(0)
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
