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
        parts = _polygons_of(self._near(geo, width, height))
        rings, owners = shapely.get_rings(parts, return_index=True)
        points, ring = shapely.get_coordinates(rings, return_index=True)
        points, ring = _bend(points, ring, _projection(self.crs, geo, width, height))
        if not np.isfinite(points).all():
            raise DatasetError(f"{self.path}: the area cannot be drawn in {get_crs(geo.crs).name!r}, the raster's map.")
        polygons = shapely.polygons(shapely.linearrings(points, indices=ring), indices=owners) if len(rings) else []
        return PixelArea(shapely.union_all(_polygons_of(shapely.make_valid(polygons))))

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
        turn = _turn(self.crs)
        middle = seen[len(seen) // 2, 0]
        seen[:, 0] = _towards(seen[:, 0], middle, turn)
        pixels = _projection(self.crs, geo, width, height)(np.array([[middle, -turn / 4], [middle, turn / 4]]))
        inside = (np.abs(pixels / (width, height) - 0.5) < 0.6).all(axis=1)  # a pole, between the points of the grid
        south, north = np.where(inside, (-turn / 4, turn / 4), (seen[:, 1].min(), seen[:, 1].max()))
        around = inside.any() or np.ptp(seen[:, 0]) > turn / 2
        sides = (middle - turn / 2, middle + turn / 2) if around else (seen[:, 0].min(), seen[:, 0].max())
        west, _, east, _ = self.geometry.bounds
        turns = range(math.floor((sides[0] - east) / turn), math.ceil((sides[1] - west) / turn) + 1)
        copies = shapely.union_all([affinity.translate(self.geometry, number * turn) for number in turns])
        # Quarters that overlap a little: around a pole, the first and the last meridian are one.
        edges, seam = np.linspace(*sides, 5), turn * 1e-7
        frames = shapely.box(edges[:-1] - seam, south, edges[1:] + seam, north)
        return shapely.intersection(copies, frames)


def _turn(crs: str) -> float:
    """Return once around the Earth in units of a geographic system: 360 degrees or 400 grads."""
    return 2 * math.pi / get_crs(crs).axis_info[0].unit_conversion_factor


def _towards(longitudes: np.ndarray, middle: float, turn: float) -> np.ndarray:
    """Return the longitudes plus whole turns, at most half a turn from the middle."""
    return longitudes + turn * np.round((middle - longitudes) / turn)


def _projection(crs: str, geo: GeoReference, width: int, height: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map of points (N, 2) from a system to the pixels of a raster, also one over the antimeridian."""
    way = transformer(crs, geo.crs)
    corners = to_crs(np.array([[0, 0], [width, 0], [0, height], [width, height]]), geo)[:, 0]
    turn = _turn(geo.crs) if get_crs(geo.crs).is_geographic else math.inf
    turns = np.ptp(corners) < turn / 2 < math.inf

    def project(points: np.ndarray) -> np.ndarray:
        x, y = way.transform(points[:, 0], points[:, 1])
        return to_pixels(np.stack((_towards(x, corners.mean(), turn) if turns else x, y), axis=-1), geo)

    return project


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


def _polygons_of(geometries: Any) -> np.ndarray:
    """Return the polygons in geometries, without the points and lines that cutting and mending leave."""
    shapely = require_extra("shapely", "geo")
    parts = shapely.get_parts(geometries)
    while (shapely.get_type_id(parts) > 3).any():  # collections and multipolygons
        parts = shapely.get_parts(parts)
    return parts[(shapely.get_type_id(parts) == 3) & ~shapely.is_empty(parts)]


def read_area(path: str | Path) -> Area:
    """Read the polygons of a vector file: GeoJSON, GeoPackage, shapefile, ... in any coordinate reference system.

    Raises:
        DatasetError: there is no such file, GDAL cannot read it, or it has no polygon, several layers, no coordinate
            reference system or longitudes that are none.
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
    area = Area(str(path), _checked(shapes, path), _crs_of(about, path))
    _require_longitudes(area)
    return area


def _require_longitudes(area: Area) -> None:
    """Refuse longitudes further around the Earth than anyone writes over the antimeridian.

    Raises:
        DatasetError: there are some.
    """
    if not get_crs(area.crs).is_geographic:
        return
    west, _, east, _ = area.geometry.bounds
    if max(-west, east) > 2 * _turn(area.crs):
        raise DatasetError(
            f"{area.path}: its longitudes go from {west:.6g} to {east:.6g}, which is no place on the Earth. Are these "
            "metres? Then the file must say so by its coordinate reference system."
        )


def _checked(shapes: np.ndarray, path: str | Path) -> Any:
    """Return the polygons as one geometry.

    Raises:
        DatasetError: there are none, or they lie nowhere.
    """
    shapely = require_extra("shapely", "geo")
    shapes = shapes[~(shapely.is_missing(shapes) | shapely.is_empty(shapes))]
    if not np.isfinite(shapely.get_coordinates(shapes)).all():
        raise DatasetError(f"{path} has coordinates that are no finite numbers. Draw the area anew.")
    geometry = shapely.union_all(_polygons_of(shapely.make_valid(shapes)))
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
