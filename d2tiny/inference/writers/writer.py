"""One door to all files: the suffix says the format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from d2tiny.inference.geo import get_crs, transformer
from d2tiny.inference.scene import Scene, SceneDetections
from d2tiny.inference.writers.arrow import flatgeobuf_file, geopackage_file, geoparquet_file
from d2tiny.inference.writers.coco import coco_file
from d2tiny.inference.writers.style import write_style
from d2tiny.inference.writers.table import BLOCK, check
from d2tiny.inference.writers.text import csv_file, geojson_file
from d2tiny.utils.errors import ConfigError, did_you_mean

__all__ = ["FORMATS", "MAP_FORMATS", "SceneWriter", "check_writable", "open_writer"]

# name, as it is typed -> suffix of the file
FORMATS = {
    "geojson": ".geojson",
    "gpkg": ".gpkg",
    "fgb": ".fgb",
    "parquet": ".parquet",
    "csv": ".csv",
    "coco": ".json",
}
MAP_FORMATS = ("geojson", "gpkg", "fgb", "parquet")  # only of scenes that lie somewhere

_Opener = Callable[[Path, Scene], AbstractContextManager[Callable[[SceneDetections], None]]]
_OPENERS: dict[str, _Opener] = {
    "geojson": geojson_file,
    "gpkg": geopackage_file,
    "fgb": flatgeobuf_file,
    "parquet": geoparquet_file,
    "csv": csv_file,
    "coco": coco_file,
}


class SceneWriter:
    """Writes the objects of one scene; see :func:`open_writer`.

    Attributes:
        count: objects that were written.
    """

    def __init__(self, scene: Scene, write_block: Callable[[SceneDetections], None]) -> None:
        self._scene = scene
        self._write_block = write_block
        self._waiting: list[SceneDetections] = []
        self._waiting_count = 0
        self.count = 0

    def write(self, chunk: SceneDetections) -> None:
        """Write some of the scene's objects.

        Raises:
            ConfigError: the chunk is of another scene.
            DatasetError: boxes that are not finite, classes that do not exist, or a place that the map does not have.
        """
        if chunk.scene is not self._scene and chunk.scene != self._scene:
            raise ConfigError(f"This file is of {self._scene.path}, these objects are of {chunk.scene.path}.")
        check(chunk)
        self.count += len(chunk)
        while len(chunk):
            room = BLOCK - self._waiting_count
            self._waiting.append(chunk.take(slice(room)))
            self._waiting_count += len(self._waiting[-1])
            chunk = chunk.take(slice(room, None))
            if self._waiting_count == BLOCK:
                self.flush()

    def flush(self) -> None:
        """Write what waits; :func:`open_writer` does it at the end. Blocks of equal size give equal bytes."""
        if self._waiting:
            parts = self._waiting
            boxes, scores, classes = (
                np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "scores", "classes")
            )
            self._write_block(SceneDetections(self._scene, boxes, scores, classes))
            self._waiting, self._waiting_count = [], 0


def check_writable(path: Path, scene: Scene) -> str:
    """Return the name of a file's format.

    Raises:
        ConfigError: an unknown suffix, or a map of a scene without coordinates.
        DatasetError: PROJ does not know the scene's system; GeoJSON: or no way from it to WGS84.
    """
    names = {suffix: name for name, suffix in FORMATS.items()}
    name = names.get(path.suffix.lower())
    if name is None:
        raise ConfigError(f"{path}: no format has the suffix {path.suffix!r}. {did_you_mean(path.suffix, names)}")
    if name in MAP_FORMATS:
        if scene.geo is None:
            raise ConfigError(
                f"{path}: {scene.path or 'the image'} has no coordinate reference system, so that its objects have no "
                "place on a map. Write COCO (.json) or CSV (.csv), which hold pixel coordinates, or give the raster "
                "coordinates with gdal_edit.py -a_srs EPSG:NUMBER -a_ullr LEFT TOP RIGHT BOTTOM."
            )
        get_crs(scene.geo.crs)
        if name == "geojson":
            transformer(scene.geo.crs, "EPSG:4326")
    return name


@contextmanager
def open_writer(path: str | Path, scene: Scene) -> Iterator[SceneWriter]:
    """Open a file for the objects of a scene; the suffix says the format, see ``FORMATS``.

    Without an exception in the block the file is complete, and a map has a QGIS style (``.qml``) beside it; else
    nothing appears, and a file of that name stays as it was. The same objects in the same order give the same bytes,
    however they are cut into chunks. Objects are worked on 65,536 at a time; what grows with them is GDAL's spatial
    index (a million objects: 30 MB for a GeoPackage, 160 MB for a FlatGeobuf).

    Args:
        path: ``.geojson`` (WGS84), ``.gpkg``, ``.fgb``, ``.parquet`` (the raster's own system), ``.csv`` or ``.json``
            (COCO; pixels).
        scene: what the objects were found in.

    Raises:
        ConfigError: an unknown suffix, or a map of a scene without coordinates.
        DatasetError: PROJ does not know the scene's system; GeoJSON: or no way from it to WGS84.
        ImportError: the extra ``geo`` is not installed.
    """
    path = Path(path)
    name = check_writable(path, scene)
    with _OPENERS[name](path, scene) as write_block:
        writer = SceneWriter(scene, write_block)
        yield writer
        writer.flush()
    if name in MAP_FORMATS:
        write_style(path, scene.classes)
