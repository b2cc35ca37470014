"""Areas from vector files: any system, edges that bend, the antimeridian, a pole, files that are none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from d2tiny.inference.area import read_area
from d2tiny.inference.geo import to_pixels
from d2tiny.inference.scene import GeoReference
from d2tiny.utils.errors import DatasetError

geopandas = pytest.importorskip("geopandas")
pyproj = pytest.importorskip("pyproj")
shapely = pytest.importorskip("shapely")

UTM = GeoReference("EPSG:32631", (0.5, 0, 448_000, 0, -0.5, 5_411_500))


def geojson(path, *rings):
    features = [
        {"type": "Feature", "properties": {"a": 1}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        for ring in rings
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def ring(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


@pytest.mark.parametrize(
    ("suffix", "crs"),
    [
        (".geojson", "EPSG:4326"),
        (".gpkg", "EPSG:32631"),
        (".gpkg", "EPSG:3857"),
        (".fgb", "EPSG:2154"),
        (".shp", "EPSG:3035"),
    ],
)
def test_a_square_of_the_raster_comes_back_from_any_file(tmp_path, suffix, crs):
    square = shapely.box(448_050, 5_411_300, 448_150, 5_411_400)  # px 100..300 by 200..400
    frame = geopandas.GeoDataFrame({"a": [1]}, geometry=[square], crs="EPSG:32631").to_crs(crs)
    frame.to_file(tmp_path / f"area{suffix}")
    area = read_area(tmp_path / f"area{suffix}").in_pixels(UTM, 1000, 1000)
    difference = shapely.symmetric_difference(area.geometry, shapely.box(100, 200, 300, 400)).area
    assert difference < 800 * 0.1  # a tenth of a pixel along the edge
    boxes = np.array([[99.0, 250, 102, 260], [90.0, 250, 102, 260], [290, 390, 300, 400], [0, 0, 10, 10]])
    assert area.contains_centres(boxes).tolist() == [True, False, True, False]
    assert area.meets(0, 0, 150, 250)
    assert not area.meets(0, 0, 99, 199)


def test_a_tile_that_only_touches_is_not_met(tmp_path):
    square = shapely.box(448_050, 5_411_300, 448_150, 5_411_400)
    geopandas.GeoDataFrame(geometry=[square], crs="EPSG:32631").to_file(tmp_path / "a.gpkg")
    area = read_area(tmp_path / "a.gpkg").in_pixels(UTM, 1000, 1000)
    assert not area.meets(0, 0, 100, 1000)
    assert area.meets(0, 0, 100.5, 1000)


def test_a_long_edge_bends_as_the_parallel_does(tmp_path):
    """Its ends alone would put the edge 23 px off at the raster's middle."""
    area = read_area(geojson(tmp_path / "a.geojson", ring(0, 40, 6, 48.85))).in_pixels(UTM, 20_000, 20_000)
    longitudes = np.linspace(2.3, 2.42, 500)
    project = pyproj.Transformer.from_crs(4326, 32631, always_xy=True).transform
    parallel = to_pixels(np.stack(project(longitudes, np.full(500, 48.85)), axis=-1), UTM)
    assert shapely.distance(area.geometry.boundary, shapely.points(parallel)).max() < 0.1


def test_the_whole_earth_can_be_searched(tmp_path):
    world = read_area(geojson(tmp_path / "world.geojson", ring(-180, -90, 180, 90)))
    corners = np.array([[0, 0, 1, 1], [9999, 0, 10_000, 1], [0, 9999, 1, 10_000], [9999, 9999, 10_000, 10_000.0]])
    south_pole = GeoReference("EPSG:3031", (100, 0, -500_000, 0, -100, 500_000))
    antimeridian = GeoReference("EPSG:32660", (10, 0, 800_000, 0, -10, 2_000_000))
    earth = GeoReference("EPSG:4326", (0.036, 0, -180, 0, -0.018, 90))
    pacific = GeoReference("EPSG:4326", (0.036, 0, 0, 0, -0.018, 90))
    mercator = GeoReference("EPSG:3857", (4007.5, 0, -20_037_500, 0, -4007.5, 20_037_500))
    for geo in (UTM, south_pole, antimeridian, earth, pacific, mercator):
        assert world.in_pixels(geo, 10_000, 10_000).contains_centres(corners).all()
    assert world.in_pixels(south_pole, 10_000, 10_000).contains_centres(np.array([[4990, 4990, 5000, 5000.0]])).all()


def test_an_area_beyond_the_antimeridian_is_found_whichever_way_it_is_written(tmp_path):
    geo = GeoReference("EPSG:4326", (0.001, 0, 179.5, 0, -0.001, -17.0))  # 179.5 to 180.5
    for west, east in ((179.9, 180.2), (-180.1, -179.8)):
        area = read_area(geojson(tmp_path / "a.geojson", ring(west, -17.4, east, -17.2))).in_pixels(geo, 1000, 1000)
        np.testing.assert_allclose(area.geometry.bounds, (400, 200, 700, 400), atol=1e-6)
    # From meters of Fiji's grid, whose longitudes come as -179.8, and for a raster in another datum than the area's.
    fiji = geopandas.read_file(tmp_path / "a.geojson").to_crs("EPSG:3832")
    fiji.to_file(tmp_path / "a.gpkg")
    area = read_area(tmp_path / "a.gpkg").in_pixels(geo, 1000, 1000)
    np.testing.assert_allclose(area.geometry.bounds, (400, 200, 700, 400), atol=1e-4)
    halves = ring(179.9, -17.4, 180, -17.2), ring(-180, -17.4, -179.8, -17.2)
    area = read_area(geojson(tmp_path / "a.geojson", *halves)).in_pixels(geo, 1000, 1000)
    np.testing.assert_allclose(area.geometry.bounds, (400, 200, 700, 400), atol=1e-6)


def test_holes_stay_and_bow_ties_are_mended(tmp_path):
    holed = geojson(tmp_path / "a.geojson", ring(2.29, 48.84, 2.31, 48.86))
    content = json.loads(holed.read_text())
    content["features"][0]["geometry"]["coordinates"].append(ring(2.299, 48.849, 2.301, 48.851))
    holed.write_text(json.dumps(content))
    area = read_area(holed)
    assert shapely.get_num_interior_rings(area.geometry) == 1
    pixels = area.in_pixels(UTM, 4000, 4000)
    assert sum(map(shapely.get_num_interior_rings, shapely.get_parts(pixels.geometry))) == 1
    bow_tie = [[2, 48], [3, 49], [3, 48], [2, 49], [2, 48]]
    assert read_area(geojson(tmp_path / "b.geojson", bow_tie)).geometry.area == pytest.approx(0.5)


def test_an_area_elsewhere_is_empty(tmp_path):
    area = read_area(geojson(tmp_path / "a.geojson", ring(10, 10, 11, 11))).in_pixels(UTM, 1000, 1000)
    assert area.is_empty
    assert not area.meets(0, 0, 1000, 1000)
    assert area.contains_centres(np.zeros((2, 4))).tolist() == [False, False]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.geojson", '{"type": "Point", "coordinates": [1, 2]}', "must hold polygons.*Point"),
        ("a.geojson", '{"type": "FeatureCollection", "features": []}', "must hold polygons.*none"),
        ("a.geojson", '{"type": "Polyg', "GDAL cannot read this"),
        ("a.geojson", "", "GDAL cannot read this"),
        ("a.gpkg", "no database", "GDAL cannot read this"),
        ("a.csv", "a,b\n1,2\n", "must hold polygons"),
    ],
)
def test_files_that_hold_no_area_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError, match=message):
        read_area(tmp_path / name)


def test_a_missing_file_layers_and_a_missing_system_are_told(tmp_path):
    with pytest.raises(DatasetError, match="no such file"):
        read_area(tmp_path / "none.geojson")
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)])
    frame.set_crs("EPSG:4326").to_file(tmp_path / "a.shp")
    (tmp_path / "a.prj").unlink()
    with pytest.raises(DatasetError, match="does not say its coordinate reference system"):
        read_area(tmp_path / "a.shp")
    for layer in ("first", "second"):
        frame.set_crs("EPSG:4326").to_file(tmp_path / "b.gpkg", layer=layer)
    with pytest.raises(DatasetError, match="must have one layer, it has 2: first, second"):
        read_area(tmp_path / "b.gpkg")


@pytest.mark.parametrize("far", [448_000, 1e30, -1e30])
def test_metres_that_a_file_calls_degrees_are_refused(tmp_path, far):
    """A common mistake in GeoJSON, whose coordinates are longitudes whatever else is meant; it must not hang either."""
    path = geojson(tmp_path / "a.geojson", [[2.28, 48.85], [far, 48.85], [far, 48.87], [2.28, 48.85]])
    with pytest.raises(DatasetError, match=r"which is no place on the Earth\. Are these metres\?"):
        read_area(path)


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e400"])
def test_coordinates_that_are_no_numbers_are_refused(tmp_path, number):
    path = geojson(tmp_path / "a.geojson", [[2.28, 48.85], [987654, 48.85], [2.3, 48.87], [2.28, 48.85]])
    path.write_text(path.read_text().replace("987654", number))
    with pytest.raises(DatasetError, match=r"no finite numbers|cannot read this|must hold polygons"):
        read_area(path)
