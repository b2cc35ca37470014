"""The part of the ground that is searched: polygons of any vector file, in the pixels of a raster."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2tiny.inference.geo import get_crs, to_crs, to_pixels, transformer
from d2tiny.inference.scene import GeoReference
from d2tiny.utils.env import require_extra
from d2tiny.utils.errors import DatasetError

__all__ = ["Area", "PixelArea", "read_area"]

_GRID = 17  # points in each direction at which a raster is looked up on the map
_BEND = 0.1  # px that an edge may lie off where it belongs
_LONG = 64.0  # px; longer edges are halved a few times whatever their middle says
_ROUNDS = 24


@dataclass(frozen=True, eq=False)
class PixelArea:
    """An area in the pixels of a raster.

    Attributes:
        geometry: shapely polygon or multipolygon in px; empty where the area does not meet the raster.
    """

    geometry: Any

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the raster lies in the area."""
        return bool(self.geometry.is_empty)

    def contains_centres(self, boxes: np.ndarray) -> np.ndarray:
        """Return (N,) bool: which boxes (N, 4), XYXY in px, have their centre in the area or on its edge."""
        shapely = require_extra("shapely", "geo")
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        shapely.prepare(self.geometry)
        return shapely.intersects_xy(self.geometry, x, y)

    def meets(self, x0: float, y0: float, x1: float, y1: float) -> bool:
        """Return whether a rectangle in px, such as a tile, has a part of the area in it; an edge alone is none."""
        shapely = require_extra("shapely", "geo")
        shapely.prepare(self.geometry)
        tile = shapely.box(x0, y0, x1, y1)
        return bool(shapely.intersects(self.geometry, tile) and not shapely.touches(self.geometry, tile))


@dataclass(frozen=True, eq=False)
class Area:
    """Polygons on the ground.

    Attributes:
        path: file that they were read from.
        geometry: shapely polygon or multipolygon, x (easting, longitude) first.
        crs: its coordinate reference system.
    """

    path: str
    geometry: Any
    crs: str

    def in_pixels(self, geo: GeoReference, width: int, height: int) -> PixelArea:
        """Return the area in the pixels of a raster, right to a tenth of a pixel.

        Only what lies at the raster is looked at, so that the whole Earth can be given. Edges are straight in the
        file's own system, and bend in the raster's where they must.

        Args:
            geo: where the pixels lie.
            width: of the raster in px.
            height: likewise.

        Raises:
            DatasetError: no way is known between the two systems, or the raster has no place on the ground.
        """
        shapely = require_extra("shapely", "geo")
        way = transformer(self.crs, geo.crs)

        def project(points: np.ndarray) -> np.ndarray:
            return to_pixels(np.stack(way.transform(points[:, 0], points[:, 1]), axis=-1), geo)

        parts = shapely.get_parts(self._near(geo, width, height))
        parts = parts[shapely.get_dimensions(parts) == 2]
        rings, owners = shapely.get_rings(parts, return_index=True)
        points, ring = _bend(*shapely.get_coordinates(rings, return_index=True), project)
        if not np.isfinite(points).all():
            raise DatasetError(f"{self.path}: the area cannot be drawn in {get_crs(geo.crs).name!r}, the raster's map.")
        polygons = shapely.polygons(shapely.linearrings(points, indices=ring), indices=owners) if len(rings) else []
        return PixelArea(_polygons_of(shapely.union_all(shapely.make_valid(polygons))))

    def _near(self, geo: GeoReference, width: int, height: int) -> Any:
        """Return what of the area lies near the raster, in the area's system, longitudes near those of the raster."""
        shapely, affinity = require_extra("shapely", "geo"), require_extra("shapely.affinity", "geo")
        # A margin, as the middle of the raster's edge may bend out between two points of the grid.
        x, y = (np.linspace(-0.1, 1.1, _GRID) * side for side in (width, height))
        grid = to_crs(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2), geo)
        seen = np.stack(transformer(geo.crs, self.crs).transform(grid[:, 0], grid[:, 1]), axis=-1)
        seen = seen[np.isfinite(seen).all(axis=1)]
        if not len(seen):
            raise DatasetError(f"{self.path}: the raster lies nowhere in {get_crs(self.crs).name!r}, the area's map.")
        if not get_crs(self.crs).is_geographic:
            return shapely.intersection(self.geometry, shapely.box(*seen.min(axis=0), *seen.max(axis=0)))
        turn = 2 * np.pi / get_crs(self.crs).axis_info[0].unit_conversion_factor  # 360 degrees, or 400 grads
        middle = seen[len(seen) // 2, 0]
        seen[:, 0] += turn * np.round((middle - seen[:, 0]) / turn)
        frame = shapely.box(*seen.min(axis=0), *seen.max(axis=0))
        west, _, east, _ = self.geometry.bounds
        turns = range(math.floor((frame.bounds[0] - east) / turn), math.ceil((frame.bounds[2] - west) / turn) + 1)
        moved = [affinity.translate(self.geometry, number * turn) for number in turns]
        return shapely.union_all([shapely.intersection(copy, frame) for copy in moved])


def _bend(
    points: np.ndarray, ring: np.ndarray, project: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Project the points (N, 2) of rings, with more points where straight edges become bent ones.

    Args:
        points: in the area's system.
        ring: (N,) number of the ring of each point.
        project: to px.

    Returns:
        (M, 2) in px and (M,) their rings.
    """
    pixels = project(points)
    for number in range(_ROUNDS):
        halves = (points[1:] + points[:-1]) / 2
        between = project(halves)
        step = np.hypot(*(pixels[1:] - pixels[:-1]).T)
        bend = np.hypot(*(between - (pixels[1:] + pixels[:-1]) / 2).T)
        split = np.flatnonzero((ring[1:] == ring[:-1]) & ((bend > _BEND) | ((step > _LONG) & (number < 3))))
        if not len(split):
            break
        points = np.insert(points, split + 1, halves[split], axis=0)
        pixels = np.insert(pixels, split + 1, between[split], axis=0)
        ring = np.insert(ring, split + 1, ring[split])
    return pixels, ring


def _polygons_of(geometry: Any) -> Any:
    """Return the polygons of a geometry as one, without the points and lines that mending leaves."""
    shapely = require_extra("shapely", "geo")
    parts = shapely.get_parts(geometry)
    while (shapely.get_type_id(parts) > 3).any():  # collections and multipolygons
        parts = shapely.get_parts(parts)
    return shapely.union_all(parts[shapely.get_type_id(parts) == 3])


def read_area(path: str | Path) -> Area:
    """Read the polygons of a vector file: GeoJSON, GeoPackage, shapefile, ... in any coordinate reference system.

    Raises:
        DatasetError: there is no such file, GDAL cannot read it, or it has no polygon, several layers or no coordinate
            reference system.
        ImportError: the extra ``geo`` is not installed.
    """
    pyogrio, shapely = require_extra("pyogrio", "geo"), require_extra("shapely", "geo")
    if not Path(path).exists() and "://" not in str(path) and not str(path).startswith("/vsi"):
        raise DatasetError(f"{path}: no such file.")
    try:
        layers = pyogrio.list_layers(path)[:, 0].tolist()
        if len(layers) != 1:
            names = ", ".join(map(str, layers[:12])) or "none"
            raise DatasetError(f"{path} must have one layer, it has {len(layers)}: {names}. Save one to its own file.")
        about, _, encoded, _ = pyogrio.raw.read(path, layer=layers[0], columns=[], force_2d=True)
        shapes = shapely.from_wkb(encoded) if encoded is not None else np.array([], dtype=object)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, shapely.errors.GEOSException) as err:
        raise DatasetError(
            f"{path}: GDAL cannot read this as a vector file ({str(err).splitlines()[0][:200]}). "
            "Give polygons as GeoJSON, GeoPackage, FlatGeobuf or shapefile."
        ) from err
    return Area(str(path), _checked(shapes, path), _crs_of(about, path))


def _checked(shapes: np.ndarray, path: str | Path) -> Any:
    """Return the polygons as one geometry.

    Raises:
        DatasetError: there are none.
    """
    shapely = require_extra("shapely", "geo")
    shapes = shapes[~(shapely.is_missing(shapes) | shapely.is_empty(shapes))]
    geometry = _polygons_of(shapely.union_all(shapely.make_valid(shapes)))
    if geometry.is_empty or not np.isfinite(geometry.bounds).all():
        kinds = ", ".join(sorted({shape.geom_type for shape in shapes})) or "none"
        raise DatasetError(f"{path} must hold polygons, its geometries are: {kinds}. Draw the area as a polygon.")
    return geometry


def _crs_of(about: dict[str, Any], path: str | Path) -> str:
    if not about.get("crs"):
        raise DatasetError(
            f"{path} does not say its coordinate reference system. Write one into it, such as with "
            "ogr2ogr -a_srs EPSG:4326 new.gpkg OLD."
        )
    return str(about["crs"])
