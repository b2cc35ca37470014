"""Pixels on the ground, by hand: UTM, degrees, web mercator, rotated, not square, over the antimeridian."""

from __future__ import annotations

import numpy as np
import pytest

from d2tiny.inference.geo import (
    box_corners,
    box_sizes,
    counter_clockwise,
    ground_resolution,
    to_crs,
    to_lonlat,
    to_pixels,
)
from d2tiny.inference.scene import GeoReference
from d2tiny.utils.errors import DatasetError

pytest.importorskip("pyproj")

BOX = np.array([[10.0, 20.0, 30.0, 60.0]])
TURNED = GeoReference("EPSG:32631", (0.0, 2.0, 500_000.0, 1.0, 0.0, 5_000_000.0))  # columns run north, rows east
WIDE = GeoReference("EPSG:32631", (0.5, 0.0, 500_000.0, 0.0, -0.8, 5_000_000.0))
MERCATOR = GeoReference("EPSG:3857", (1.0, 0.0, 1_000_000.0, 0.0, -1.0, 8_399_737.89 + 50))  # 60° north at row 50
DEGREES = GeoReference("EPSG:4326", (1e-5, 0.0, 10.0, 0.0, -1e-5, 60.0))
FIJI = GeoReference("EPSG:4326", (0.001, 0.0, 179.99, 0.0, -0.001, -17.0))  # column 10 is the antimeridian


def signed_areas(polygons):
    x, y = polygons[..., 0], polygons[..., 1]
    return ((x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)) / 2


@pytest.mark.parametrize(
    ("geo", "corners"),
    [
        (
            GeoReference("EPSG:32631", (0.5, 0, 500_000, 0, -0.5, 5_000_000)),
            [[500_005, 4_999_990], [500_005, 4_999_970], [500_015, 4_999_970], [500_015, 4_999_990]],
        ),
        (WIDE, [[500_005, 4_999_984], [500_005, 4_999_952], [500_015, 4_999_952], [500_015, 4_999_984]]),
        (TURNED, [[500_040, 5_000_010], [500_120, 5_000_010], [500_120, 5_000_030], [500_040, 5_000_030]]),
        (DEGREES, [[10.0001, 59.9998], [10.0001, 59.9994], [10.0003, 59.9994], [10.0003, 59.9998]]),
    ],
)
def test_corners_lie_where_they_do_by_hand(geo, corners):
    np.testing.assert_allclose(box_corners(BOX, geo)[0], corners, rtol=0, atol=1e-7)
    np.testing.assert_allclose(to_pixels(np.array(corners, dtype=float), geo), box_corners(BOX)[0], atol=1e-4)


def test_rings_are_counter_clockwise_also_where_south_is_up():
    south_up = GeoReference("EPSG:32631", (0.5, 0, 500_000, 0, 0.5, 5_000_000))
    for geo in (WIDE, TURNED, south_up):
        polygons = box_corners(np.repeat(BOX, 3, axis=0), geo)
        turned = counter_clockwise(polygons)
        assert (signed_areas(turned) > 0).all()
        assert sorted(map(tuple, turned[0])) == sorted(map(tuple, polygons[0]))
    assert signed_areas(box_corners(BOX, south_up))[0] < 0  # so there was something to turn


def test_longitude_and_latitude_on_the_middle_meridian():
    """The meridian from the equator to 45° north is 4,984,944.378 m long, times 0.9996 on the map."""
    geo = GeoReference("EPSG:32631", (1, 0, 500_000, 0, -1, 4_984_944.378 * 0.9996))
    np.testing.assert_allclose(to_lonlat(np.array([[500_000, geo.transform[5]]]), geo)[0], [3, 45], atol=1e-8)


@pytest.mark.parametrize(
    ("geo", "size"),
    [
        (WIDE, (20 * 0.5 / 0.9996, 40 * 0.8 / 0.9996)),
        (TURNED, (20 * 1 / 0.9996, 40 * 2 / 0.9996)),
        # At 60° a degree of longitude is 55,800 m long, one of latitude 111,412 m.
        (DEGREES, (20e-5 * 55_800, 40e-5 * 111_412)),
        # A metre of web mercator is there cos 60° = 0.5 m on a sphere; on the ellipsoid a little more.
        (MERCATOR, (20 * 0.50125, 40 * 0.5004)),
        # The same ground in Paris' grads and metres; and a building site's grid in feet, which lies nowhere on Earth.
        (GeoReference("EPSG:27571", (0.5, 0, 600_000, 0, -0.5, 1_200_000)), (10, 20)),
        (GeoReference('LOCAL_CS["site",UNIT["foot",0.3048]]', (0.5, 0, 0, 0, -0.5, 0)), (3.048, 6.096)),
    ],
)
def test_sizes_are_metres_on_the_ground(geo, size):
    np.testing.assert_allclose(box_sizes(BOX, geo)[0], size, rtol=3e-4)


def test_resolution_is_that_of_the_rasters_middle():
    assert ground_resolution(WIDE, 100, 100) == pytest.approx((0.5 / 0.9996, 0.8 / 0.9996), rel=1e-6)
    # 10,000 rows further south a degree of longitude is longer: 55.9 km at 59.9°, 111.4 km for one of latitude.
    assert ground_resolution(DEGREES, 200, 20_000) == pytest.approx((0.559704, 1.114104), rel=1e-3)
    assert ground_resolution(MERCATOR, 100, 100) == pytest.approx((0.50125, 0.5004), rel=3e-4)


def test_a_polygon_over_the_antimeridian_is_not_torn_apart():
    corners = to_lonlat(box_corners(np.array([[5.0, 0, 15, 10], [25, 0, 30, 5]]), FIJI), FIJI)
    np.testing.assert_allclose(corners[0][:, 0], [179.995, 179.995, 180.005, 180.005], atol=1e-9)
    np.testing.assert_allclose(corners[1][:, 0], [-179.985, -179.985, -179.98, -179.98], atol=1e-9)


@pytest.mark.parametrize(
    ("geo", "message"),
    [
        (GeoReference("EPSG:999999", WIDE.transform), "PROJ does not know .*EPSG:999999.*gdal_edit"),
        (GeoReference("nonsense", WIDE.transform), "PROJ does not know .*nonsense"),
        (GeoReference("EPSG:4978", WIDE.transform), "no map but x, y, z"),
        (GeoReference("EPSG:32631", (0.5, 0.5, 0, 0.5, 0.5, 0)), "no area"),
        (GeoReference("EPSG:32631", (float("nan"), 0, 0, 0, 1, 0)), "no area"),
        (GeoReference("EPSG:4326", (1.0, 0, 0, 0, -1.0, 500.0)), "no place on the ground"),
    ],
)
def test_what_lies_nowhere_is_refused(geo, message):
    with pytest.raises(DatasetError, match=message):
        ground_resolution(geo, 10, 10)


def test_no_boxes_are_no_problem():
    nothing = np.zeros((0, 4))
    assert box_sizes(nothing, WIDE).shape == (0, 2)
    assert to_lonlat(box_corners(nothing, WIDE), WIDE).shape == (0, 4, 2)
    assert to_crs(np.zeros((0, 2)), WIDE).shape == (0, 2)
