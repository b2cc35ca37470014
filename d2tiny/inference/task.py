"""A scene cut into units of work: what is read of it, what is kept of what was found."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from d2tiny.inference.merge import Views
from d2tiny.inference.pixels import ScenePixels
from d2tiny.inference.tiles import TileGrid
from d2tiny.runtime.detections import ArrayDetections
from d2tiny.utils.errors import ConfigError

if TYPE_CHECKING:
    from d2tiny.inference.area import Area, PixelArea
    from d2tiny.inference.scene import GeoReference

__all__ = ["SceneTask", "UnitFound", "Window", "area_in", "in_file", "read_ahead"]

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
    """

    tile: int
    image: Any
    valid: np.ndarray | None

    def accepted(self, instances: Any) -> UnitFound:
        """Return the objects, of Detectron2's ``Instances`` or of arrays, that have data in half of their box."""
        found = ArrayDetections.of(instances)
        kept = np.ones(len(found.boxes), np.bool_)
        if self.valid is not None:
            kept = _share_of_data(found.boxes, self.valid) >= 0.5
        return UnitFound(np.full(int(kept.sum()), self.tile, np.int32), *found.take(kept))


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


def in_file(views: Views, scale: tuple[float, float], area: PixelArea | None) -> Views:
    """Return the objects of a scene in px of its file, those that have their centre in the area.

    Args:
        views: in px that were looked at.
        scale: (x, y), px of the file for each of these.
        area: that is searched; None for all.
    """
    views = views._replace(boxes=views.boxes * np.array(scale * 2))
    return views if area is None else views.take(area.contains_centres(views.boxes))


def area_in(geo: GeoReference | None, size: tuple[int, int], aoi: str | Path | Area | None) -> PixelArea | None:
    """Return the area that is searched in a scene, in px of its file.

    Args:
        geo: where the pixels lie.
        size: (width, height) of the file in px.
        aoi: the area, or its file; None for all.

    Raises:
        ConfigError: the scene has no coordinates.
        DatasetError: the file of the area cannot be read.
        ImportError: reading it needs an extra that is not installed.
    """
    if aoi is None:
        return None
    from d2tiny.inference.area import Area

    if geo is None:
        name = aoi.path if isinstance(aoi, Area) else aoi
        raise ConfigError(f"--aoi {name}: this image has no coordinates; leave it out.")
    area = aoi if isinstance(aoi, Area) else _read_area(os.fspath(aoi), _changed(aoi))
    return area.in_pixels(geo, *size)


@lru_cache(maxsize=1)
def _read_area(path: str, changed: int) -> Area:
    """Read an area once for all scenes of a run; ``changed`` tells apart what was written since."""
    from d2tiny.inference.area import read_area

    return read_area(path)


def _changed(path: str | Path) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except (OSError, ValueError):  # a URL, or missing, which reading tells
        return 0


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
        window = self.grid.window(tile)
        if self.area is not None:
            # Neighbours of the area are looked at too: they see whole what its edge cuts.
            grown = np.array(window) + self.grid.overlap * np.array((-1, -1, 1, 1))
            if not self.area.meets(*(grown * np.array(self.pixels.scale * 2)).tolist()):
                return Window(tile, None, None)
        valid = self.pixels.valid(*window)
        if valid is not None and not valid.any():
            return Window(tile, None, None)
        return Window(tile, self.pixels.read(*window), valid)


def read_ahead(items: Iterable[_U], read: Callable[[_U], _W]) -> Generator[tuple[_U, _W], None, None]:
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
