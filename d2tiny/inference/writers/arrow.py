"""GeoPackage, FlatGeobuf and GeoParquet, from Arrow tables of a block of objects at a time."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from d2tiny.inference.geo import box_corners, counter_clockwise, get_crs
from d2tiny.inference.scene import Scene, SceneDetections
from d2tiny.inference.writers.table import about_scene, attributes, measures, no_detections
from d2tiny.utils.env import require_extra
from d2tiny.utils.files import name_atomic, open_atomic

__all__ = ["flatgeobuf_file", "geopackage_file", "geoparquet_file"]

LAYER = "detections"
# A polygon of one ring with five points in well-known binary, little-endian.
_WKB = np.dtype([("order", "u1"), ("type", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("xy", "<f8", (5, 2))])
_BOUNDS = ("xmin", "ymin", "xmax", "ymax")
# Files of the same objects have the same bytes: no date of writing, no thread that builds the index meanwhile.
_REPEATABLE = {"OGR_CURRENT_DATE": "1970-01-01T00:00:00.000Z", "OGR_GPKG_ALLOW_THREADED_RTREE": "NO"}
_OPTIONS = threading.Lock()


def _polygons(block: SceneDetections) -> np.ndarray:
    """Return the outlines (N, 4, 2) in the raster's system."""
    return counter_clockwise(box_corners(block.boxes, block.scene.geo)) + 0.0


def _encoded(polygons: np.ndarray) -> Any:
    """Return polygons (N, 4, 2) as an Arrow array of well-known binary."""
    pyarrow = require_extra("pyarrow", "geo")
    records = np.empty(len(polygons), dtype=_WKB)
    records["order"], records["type"], records["rings"], records["points"] = 1, 3, 1, 5
    records["xy"][:, :4], records["xy"][:, 4] = polygons, polygons[:, 0]
    ends = np.arange(len(polygons) + 1, dtype=np.int32) * _WKB.itemsize
    buffers = [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(records)]
    return pyarrow.Array.from_buffers(pyarrow.binary(), len(polygons), buffers)


def _schema(scene: Scene, *, bounds: bool) -> Any:
    """Return the Arrow schema: class, measures, scene, model, time, the bounds where asked for, geometry."""
    pyarrow = require_extra("pyarrow", "geo")
    fields = [pyarrow.field("class", pyarrow.string())]
    fields += [pyarrow.field(name, pyarrow.float64()) for name in measures(no_detections(scene))]
    fields += [pyarrow.field(name, pyarrow.string()) for name in attributes(scene)]
    if bounds:
        inner = [pyarrow.field(name, pyarrow.float64()) for name in _BOUNDS]
        fields.append(pyarrow.field("bbox", pyarrow.struct(inner)))
    extension = {"ARROW:extension:name": "geoarrow.wkb"} if not bounds else None
    return pyarrow.schema([*fields, pyarrow.field("geometry", pyarrow.binary(), metadata=extension)])


def _batch(block: SceneDetections, schema: Any) -> Any:
    """Return a block of objects as an Arrow record batch."""
    pyarrow = require_extra("pyarrow", "geo")
    names = pyarrow.array(block.scene.classes, pyarrow.string())
    polygons = _polygons(block)
    columns = [names.take(pyarrow.array(np.asarray(block.classes, dtype=np.int64)))]
    columns += [pyarrow.array(column) for column in measures(block).values()]
    columns += [pyarrow.repeat(value, len(block)) for value in attributes(block.scene).values()]
    if "bbox" in schema.names:
        edges = np.concatenate((polygons.min(axis=1), polygons.max(axis=1)), axis=1).T
        columns.append(pyarrow.StructArray.from_arrays([pyarrow.array(edge) for edge in edges], names=_BOUNDS))
    return pyarrow.record_batch([*columns, _encoded(polygons)], schema=schema)


@contextmanager
def geoparquet_file(path: Path, scene: Scene) -> Iterator[Callable[[SceneDetections], None]]:
    """Write a GeoParquet 1.1: outlines in the raster's system, a row group for each block, bounds of each object."""
    parquet = require_extra("pyarrow.parquet", "geo")
    assert scene.geo is not None  # open_writer refuses it
    geometry = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": get_crs(scene.geo.crs).to_json_dict(),
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {name: ["bbox", name] for name in _BOUNDS}},
    }
    about = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    schema = _schema(scene, bounds=True)
    schema = schema.with_metadata({"geo": json.dumps(about), "d2tiny": json.dumps(about_scene(scene))})
    with open_atomic(path) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        yield lambda block: writer.write_batch(_batch(block, schema))


@contextmanager
def geopackage_file(path: Path, scene: Scene) -> Iterator[Callable[[SceneDetections], None]]:
    """Write a GeoPackage: the layer ``detections`` in the raster's system, with a spatial index."""
    with _through_gdal(path, scene, "GPKG", layer_metadata=_metadata(scene)) as write:
        yield write


@contextmanager
def flatgeobuf_file(path: Path, scene: Scene) -> Iterator[Callable[[SceneDetections], None]]:
    """Write a FlatGeobuf in the raster's system, with a spatial index."""
    with _through_gdal(path, scene, "FlatGeobuf") as write:
        yield write


def _metadata(scene: Scene) -> dict[str, str]:
    return {"d2tiny": json.dumps(about_scene(scene))}


@contextmanager
def _through_gdal(path: Path, scene: Scene, driver: str, **options: Any) -> Iterator[Callable[[SceneDetections], None]]:
    """Collect objects in a file without a name, and have GDAL write them at the end, a block at a time.

    Raises:
        OSError: GDAL cannot write the file.
    """
    pyarrow, pyogrio = require_extra("pyarrow", "geo"), require_extra("pyogrio", "geo")
    assert scene.geo is not None  # open_writer refuses it
    crs = get_crs(scene.geo.crs).to_wkt()
    schema = _schema(scene, bounds=False)
    with name_atomic(path) as name, tempfile.TemporaryFile(dir=path.parent) as spool:
        count = 0
        with pyarrow.ipc.new_stream(spool, schema) as stream:

            def write(block: SceneDetections) -> None:
                nonlocal count
                stream.write_batch(_batch(block, schema))
                count += len(block)

            yield write
        spool.seek(0)
        options |= {"driver": driver, "layer": LAYER, "geometry_type": "Polygon", "crs": crs}
        with _repeatable(), pyarrow.ipc.open_stream(spool) as reader:
            try:
                pyogrio.write_arrow(reader, name, geometry_name="geometry", **options)
            except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as err:
                raise OSError(f"{path}: GDAL cannot write this file ({err}).") from err
            if not _is_whole(name, count):
                raise OSError(f"{path}: GDAL did not write the whole file. Is the disk full?")


def _is_whole(path: Path, count: int) -> bool:
    """Return whether a file holds so many objects and their index: GDAL says nothing of an index without room."""
    about = require_extra("pyogrio", "geo").read_info(path, force_feature_count=True)
    return about["features"] == count and (about["capabilities"]["fast_spatial_filter"] or not count)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Set GDAL's options for equal bytes, and what they were afterwards; one thread at a time, as they are global."""
    pyogrio = require_extra("pyogrio", "geo")
    with _OPTIONS:
        before = {key: pyogrio.get_gdal_config_option(key) for key in _REPEATABLE}
        pyogrio.set_gdal_config_options(_REPEATABLE)
        try:
            yield
        finally:
            pyogrio.set_gdal_config_options(before)
