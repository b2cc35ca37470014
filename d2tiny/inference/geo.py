"""From the pixels of a raster to the ground: polygons of boxes, longitude and latitude, sizes in metres."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from d2tiny.inference.scene import GeoReference
from d2tiny.utils.env import require_extra
from d2tiny.utils.errors import DatasetError

__all__ = [
    "box_corners",
    "box_sizes",
    "counter_clockwise",
    "get_crs",
    "ground_distance",
    "ground_resolution",
    "to_crs",
    "to_lonlat",
    "to_pixels",
    "transformer",
]


@lru_cache(maxsize=64)
def get_crs(text: str) -> Any:
    """Return the horizontal part of a coordinate reference system as a pyproj.CRS.

    Args:
        text: as ``EPSG:32631``, WKT or what else pyproj understands.

    Raises:
        DatasetError: PROJ does not know it.
    """
    pyproj = require_extra("pyproj", "geo")
    try:
        crs = pyproj.CRS.from_user_input(text)
        if crs.is_geocentric:
            raise DatasetError(f"A raster cannot lie in {crs.name!r} ({text[:200]}), which is no map but x, y, z.")
        return crs.to_2d()
    except pyproj.exceptions.CRSError as err:
        raise DatasetError(
            f"PROJ does not know the coordinate reference system {text[:200]!r} ({str(err).splitlines()[0][:200]}). "
            "Give the raster another with gdal_edit.py -a_srs EPSG:NUMBER."
        ) from err


@lru_cache(maxsize=64)
def transformer(source: str, target: str) -> Any:
    """Return the pyproj.Transformer between two systems, x (easting, longitude) first.

    Raises:
        DatasetError: no way is known from one to the other, such as from a local grid of a building site.
    """
    pyproj = require_extra("pyproj", "geo")
    start, end = get_crs(source), get_crs(target)
    try:
        return pyproj.Transformer.from_crs(start, end, always_xy=True)
    except pyproj.exceptions.ProjError as err:
        raise DatasetError(
            f"PROJ knows no way from {start.name!r} to {end.name!r}: such coordinates cannot be put on a world map. "
            "Give the raster the system that it was measured in with gdal_edit.py -a_srs EPSG:NUMBER."
        ) from err


def to_crs(points: np.ndarray, geo: GeoReference) -> np.ndarray:
    """Map points from pixels to the raster's system.

    Args:
        points: (..., 2) x and y in px; (0, 0) is the upper left corner of the first pixel.
        geo: where the pixels lie.

    Returns:
        (..., 2) float64, x (easting, longitude) and y (northing, latitude) in units of ``geo.crs``.
    """
    a, b, c, d, e, f = geo.transform
    x, y = points[..., 0], points[..., 1]
    return np.stack((a * x + b * y + c, d * x + e * y + f), axis=-1)


def to_pixels(points: np.ndarray, geo: GeoReference) -> np.ndarray:
    """Map points (..., 2) from the raster's system to pixels; the inverse of :func:`to_crs`.

    Raises:
        DatasetError: pixels without an area.
    """
    a, b, c, d, e, f = geo.transform
    determinant = a * e - b * d
    if not math.isfinite(determinant) or determinant == 0:
        raise DatasetError(f"The raster's pixels have no area: its transform is {geo.transform}. See gdalinfo.")
    x, y = points[..., 0] - c, points[..., 1] - f
    return np.stack(((e * x - b * y) / determinant, (a * y - d * x) / determinant), axis=-1)


def box_corners(boxes: np.ndarray, geo: GeoReference | None = None) -> np.ndarray:
    """Return the corners of boxes, also on rotated rasters and those with pixels that are not square.

    Args:
        boxes: (N, 4) XYXY in px.
        geo: where the pixels lie; None for corners in px.

    Returns:
        (N, 4, 2) float64, in units of ``geo.crs``: corner (x0, y0), (x0, y1), (x1, y1), (x1, y0). That is
        counter-clockwise on a map with north up.
    """
    corners = np.asarray(boxes, dtype=np.float64)[:, [0, 1, 0, 3, 2, 3, 2, 1]].reshape(-1, 4, 2)
    return corners if geo is None else to_crs(corners, geo)


def counter_clockwise(polygons: np.ndarray) -> np.ndarray:
    """Return the polygons (N, V, 2) with those that run clockwise turned round: the right-hand rule of RFC 7946."""
    moved = polygons - polygons[:, :1]
    following = np.roll(moved, -1, axis=1)
    doubled = (moved[..., 0] * following[..., 1] - following[..., 0] * moved[..., 1]).sum(axis=1)
    return np.where((doubled < 0)[:, None, None], polygons[:, ::-1], polygons)


def to_lonlat(points: np.ndarray, geo: GeoReference) -> np.ndarray:
    """Map points from the raster's system to longitude and latitude in degrees (WGS84).

    Args:
        points: (..., 2) in units of ``geo.crs``; the points of the last axis but one belong together.
        geo: where the raster lies.

    Returns:
        (..., 2) float64. Each first point has its longitude in [-180, 180); those that belong to it are near it, so
        that a polygon over the antimeridian has longitudes beyond 180 and is not torn apart.

    Raises:
        DatasetError: points that the projection does not have.
    """
    x, y = transformer(geo.crs, "EPSG:4326").transform(points[..., 0], points[..., 1])
    _require_ground(points, x, y, geo)
    first = x[..., :1] - 360 * np.floor((x[..., :1] + 180) / 360)
    return np.stack((x + 360 * np.round((first - x) / 360), y), axis=-1)


def ground_distance(start: np.ndarray, end: np.ndarray, geo: GeoReference) -> np.ndarray:
    """Return the distances in metres along the ground (geodesics on the ellipsoid of the system), not on the map.

    Args:
        start: (..., 2) in px.
        end: (..., 2) in px.
        geo: where the pixels lie. In a local grid without a place on Earth distances are those of the grid.

    Returns:
        (...) float64.

    Raises:
        DatasetError: points that the projection does not have.
    """
    first, last = to_crs(start, geo), to_crs(end, geo)
    crs = get_crs(geo.crs)
    base = crs.geodetic_crs
    if base is None:
        scale = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        return np.hypot(*np.moveaxis(last - first, -1, 0)) * scale
    degrees = math.degrees(base.axis_info[0].unit_conversion_factor)  # of its unit: there are maps in grads
    way = transformer(geo.crs, base.to_wkt())
    x0, y0 = way.transform(first[..., 0], first[..., 1])
    x1, y1 = way.transform(last[..., 0], last[..., 1])
    ends = [np.multiply(part, degrees) for part in (x0, y0, x1, y1)]
    _require_ground(first, ends[0], ends[1], geo)
    _require_ground(last, ends[2], ends[3], geo)
    return crs.get_geod().inv(*ends)[2]


def _require_ground(points: np.ndarray, longitude: np.ndarray, latitude: np.ndarray, geo: GeoReference) -> None:
    """Check that points (..., 2) in units of ``geo.crs`` have a longitude and a latitude in degrees.

    Raises:
        DatasetError: one has none; says which.
    """
    nowhere = ~(np.isfinite(longitude) & (np.abs(latitude) <= 90 + 1e-9))
    if nowhere.any():
        x, y = points[nowhere][0]
        raise DatasetError(
            f"x = {x:g}, y = {y:g} of the raster is no place on the ground in {get_crs(geo.crs).name!r}. "
            "Does the raster have the right coordinate reference system and transform? See gdalinfo."
        )


def box_sizes(boxes: np.ndarray, geo: GeoReference) -> np.ndarray:
    """Return the sizes of boxes on the ground, true also in degrees and in web mercator.

    Args:
        boxes: (N, 4) XYXY in px.
        geo: where the pixels lie.

    Returns:
        (N, 2) float64, width and height in metres: along the box's middle in the raster's x and y direction.

    Raises:
        DatasetError: boxes where the projection has no place.
    """
    x0, y0, x1, y1 = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    start = np.stack((np.stack((x0, y), axis=-1), np.stack((x, y0), axis=-1)), axis=1)
    end = np.stack((np.stack((x1, y), axis=-1), np.stack((x, y1), axis=-1)), axis=1)
    return ground_distance(start, end, geo)


def ground_resolution(geo: GeoReference, width: int, height: int) -> tuple[float, float]:
    """Return how many metres on the ground a pixel at the middle of a raster is long in x and in y direction.

    Args:
        geo: where the pixels lie.
        width: of the raster in px.
        height: likewise.

    Raises:
        DatasetError: a middle where the projection has no place, or a transform that gives pixels no area.
    """
    to_pixels(np.zeros(2), geo)  # raises for pixels without an area
    x, y = width / 2, height / 2
    in_x, in_y = box_sizes(np.array([[x - 0.5, y - 0.5, x + 0.5, y + 0.5]]), geo)[0].tolist()
    return in_x, in_y
