"""GeoJSON (RFC 7946) and CSV, written as objects come; only a block of text is in memory."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from d2tiny.inference.geo import box_corners, counter_clockwise, to_lonlat
from d2tiny.inference.scene import Scene, SceneDetections
from d2tiny.inference.writers.table import about_scene, attributes, measures, no_detections, table
from d2tiny.utils.env import require_extra
from d2tiny.utils.files import open_atomic

__all__ = ["csv_file", "features", "geojson_file"]

_DECIMALS = 8  # of degrees: a millimetre
_RING = "[" + ",".join(["[%r,%r]"] * 5) + "]"


@contextmanager
def geojson_file(path: Path, scene: Scene) -> Iterator[Callable[[SceneDetections], None]]:
    """Write a GeoJSON: polygons in WGS84, counter-clockwise, cut at the antimeridian; ``scene`` says how it was made.

    The scene must be one that ``check_writable`` lets pass.
    """
    begun = False
    with open_atomic(path) as file:
        about = json.dumps(about_scene(scene))
        file.write(f'{{"type":"FeatureCollection","scene":{about},"features":['.encode())

        def write(block: SceneDetections) -> None:
            nonlocal begun
            text = ",\n".join(features(block))
            file.write(f"{',' if begun else ''}\n{text}".encode() if text else b"")
            begun = begun or bool(text)

        yield write
        file.write(b"\n]}\n")


def features(block: SceneDetections) -> list[str]:
    """Return the text of the GeoJSON feature of each object."""
    scene = block.scene
    assert scene.geo is not None
    names = [json.dumps(name, ensure_ascii=False) for name in scene.classes]
    columns = measures(block)
    constant = json.dumps(attributes(scene), ensure_ascii=False, separators=(",", ":"))[1:-1]
    constant = constant.replace("%", "%%")
    keys = ",".join(f'"{key}":%r' for key in columns)
    head = f'{{"type":"Feature","properties":{{"class":%s,{keys},{constant}}},"geometry":%s}}'
    classes = [names[number] for number in block.classes.tolist()]
    return [
        head % row
        for row in zip(classes, *(column.tolist() for column in columns.values()), _geometries(block), strict=True)
    ]


def _geometries(block: SceneDetections) -> list[str]:
    """Return the text of the GeoJSON geometry of each object."""
    geo = block.scene.geo
    assert geo is not None
    polygons = counter_clockwise(to_lonlat(box_corners(block.boxes, geo), geo))
    rounded = np.round(polygons, _DECIMALS) + 0.0  # no -0.0
    closed = np.concatenate((rounded, rounded[:, :1]), axis=1).reshape(len(rounded), 10)
    template = f'{{"type":"Polygon","coordinates":[{_RING}]}}'
    texts = [template % tuple(row) for row in closed.tolist()]
    beyond = (polygons[..., 0] < -180) | (polygons[..., 0] > 180)
    for number in np.flatnonzero(beyond.any(axis=1)).tolist():
        parts = cut_at_antimeridian(polygons[number])
        rings = [[[*part, part[0]]] for part in parts]
        kind, coordinates = ("Polygon", rings[0]) if len(rings) == 1 else ("MultiPolygon", rings)
        texts[number] = json.dumps({"type": kind, "coordinates": coordinates}, separators=(",", ":"))
    return texts


def cut_at_antimeridian(polygon: np.ndarray) -> list[list[list[float]]]:
    """Cut a convex polygon whose longitudes go beyond ±180, as RFC 7946 asks for in section 3.1.9.

    Args:
        polygon: (V, 2) longitude and latitude, counter-clockwise.

    Returns:
        The corners of each part, counter-clockwise, with longitudes in [-180, 180].
    """
    shapely = require_extra("shapely", "geo")
    parts = []
    for turn in (-360, 0, 360):
        part = shapely.intersection(shapely.polygons(np.add(polygon, (turn, 0))), shapely.box(-180, -90, 180, 90))
        if part.geom_type == "Polygon" and part.area > 0:
            corners = counter_clockwise(shapely.get_coordinates(part)[None, :-1])[0]
            parts.append((np.round(corners, _DECIMALS) + 0.0).tolist())
    return parts


@contextmanager
def csv_file(path: Path, scene: Scene) -> Iterator[Callable[[SceneDetections], None]]:
    """Write a CSV: a line for each object with the columns of :func:`~d2tiny.inference.writers.table.table`."""
    with open_atomic(path) as file:

        def write(block: SceneDetections, *, header: bool = False) -> None:
            columns, text = table(block), io.StringIO()
            lines = csv.writer(text, lineterminator="\n")
            if header:
                lines.writerow(columns)
            lines.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
            file.write(text.getvalue().encode())

        write(no_detections(scene), header=True)
        yield write
