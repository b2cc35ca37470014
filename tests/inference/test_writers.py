"""What is written reads back in other libraries, at the right place, and has the same bytes each time."""

from __future__ import annotations

import csv
import json
from xml.etree import ElementTree

import numpy as np
import pytest

from d2tiny.data.coco.writer import write_coco
from d2tiny.inference.scene import GeoReference
from d2tiny.inference.writers import FORMATS, MAP_FORMATS, open_coco, open_writer
from d2tiny.inference.writers import table as table_module
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.visualization import class_color
from tests.helpers.scenes import CLASSES, UTM, found, many, part, scene

geopandas = pytest.importorskip("geopandas")
pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")

ATTRIBUTES = ["class", "score", "width_px", "height_px", "width_m", "height_m", "scene", "model", "time"]
TURNED = GeoReference("EPSG:32631", (0.0, 2.0, 500_000.0, 1.0, 0.0, 5_000_000.0))
WIDE = GeoReference("EPSG:32631", (0.5, 0.0, 500_000.0, 0.0, -0.8, 5_000_000.0))
DEGREES = GeoReference("EPSG:4326", (1e-5, 0.0, 10.0, 0.0, -1e-5, 60.0))
BOXES = [[10, 20, 30, 60], [100.25, 200.5, 103.75, 209.125]]


def read(path):
    """Read a map with geopandas: pyogrio and GDAL, or pyarrow for GeoParquet."""
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)


@pytest.mark.parametrize("name", MAP_FORMATS)
@pytest.mark.parametrize(
    ("geo", "outline"),
    [
        (UTM, (500_005, 4_999_970, 500_015, 4_999_990)),
        (WIDE, (500_005, 4_999_952, 500_015, 4_999_984)),
        (TURNED, (500_040, 5_000_010, 500_120, 5_000_030)),
        (DEGREES, (10.0001, 59.9994, 10.0003, 59.9998)),
    ],
)
def test_another_library_finds_the_objects_where_they_are(tmp_path, name, geo, outline):
    path = tmp_path / f"map{FORMATS[name]}"
    found(BOXES, geo).to_file(path)
    frame = read(path).sort_values("score", ascending=False, ignore_index=True)  # FlatGeobuf has its own order
    assert list(frame.columns)[: len(ATTRIBUTES)] == ATTRIBUTES
    assert frame["class"].tolist() == list(CLASSES[:2])
    assert frame["score"].tolist() == [0.9, 0.8]
    assert frame["width_px"].tolist() == [20, 3.5]
    assert frame["height_px"].tolist() == [40, 8.62]  # 8.625 to the even neighbour
    assert set(frame["scene"]) == {"scenes/ortho.tif"} and set(frame["model"]) == {"rfla"}
    assert frame.crs == ("EPSG:4326" if name == "geojson" else geo.crs)
    shape = frame.to_crs(geo.crs).geometry[0]
    degrees = geo.crs == "EPSG:4326"
    assert shapely.hausdorff_distance(shape, shapely.box(*outline)) < (1e-8 if degrees else 1e-2)
    if name != "geojson":
        np.testing.assert_allclose(shape.bounds, outline, rtol=0, atol=1e-9)
    assert frame.geometry.exterior.is_ccw.all()
    assert frame["width_m"][0] == pytest.approx(11.16 if degrees else shape_size(geo)[0], rel=1e-3)
    assert frame["height_m"][0] == pytest.approx(44.565 if degrees else shape_size(geo)[1], rel=1e-3)


def shape_size(geo):
    """Return the size of the first box in metres; on zone 31's middle meridian the map is 0.9996 of the ground."""
    a, b, _, d, e, _ = geo.transform
    return 20 * np.hypot(a, d) / 0.9996, 40 * np.hypot(b, e) / 0.9996


def test_geojson_is_what_rfc_7946_says(tmp_path):
    found(BOXES).to_file(tmp_path / "a.geojson")
    content = json.loads((tmp_path / "a.geojson").read_text())
    assert list(content) == ["type", "scene", "features"]  # no "crs": that was dropped
    assert content["scene"]["settings"] == {"tile": 800, "stretch": [2.0, 98.0]}
    for feature in content["features"]:
        assert list(feature) == ["type", "properties", "geometry"]
        (ring,) = feature["geometry"]["coordinates"]
        assert len(ring) == 5 and ring[0] == ring[-1]
        assert shapely.Polygon(ring).exterior.is_ccw
        assert all(-180 <= x <= 180 and -90 <= y <= 90 for x, y in ring)


def test_geojson_is_cut_at_the_antimeridian(tmp_path):
    """Columns 10 and more lie beyond it; RFC 7946, section 3.1.9."""
    fiji = GeoReference("EPSG:4326", (0.001, 0.0, 179.99, 0.0, -0.001, -17.0))
    objects = found([[4, 0, 15, 10], [12, 0, 14, 5], [4, 0, 10, 10], [10, 2, 14, 4]], fiji)
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in objects.to_geojson()["features"]]
    assert [shape.geom_type for shape in shapes] == ["MultiPolygon", "Polygon", "Polygon", "Polygon"]
    west, east = sorted(shapes[0].geoms, key=lambda p: p.bounds)
    np.testing.assert_allclose(west.bounds, (-180, -17.01, -179.995, -17), atol=1e-8)
    np.testing.assert_allclose(east.bounds, (179.994, -17.01, 180, -17), atol=1e-8)
    assert west.exterior.is_ccw and east.exterior.is_ccw
    np.testing.assert_allclose(shapes[1].bounds, (-179.998, -17.005, -179.996, -17), atol=1e-8)
    np.testing.assert_allclose(shapes[2].bounds, (179.994, -17.01, 180, -17), atol=1e-8)
    np.testing.assert_allclose(shapes[3].bounds, (-180, -17.004, -179.996, -17.002), atol=1e-8)
    objects.to_file(tmp_path / "a.geojson")
    assert geopandas.read_file(tmp_path / "a.geojson").geometry.is_valid.all()


@pytest.mark.parametrize("name", MAP_FORMATS)
def test_objects_on_a_map_come_back_from_the_place_that_is_asked_for(tmp_path, name):
    objects = many(500)
    path = tmp_path / f"map{FORMATS[name]}"
    objects.to_file(path)
    window = (500_100, 4_999_700, 500_300, 4_999_900)  # px 200..600 by 200..600
    boxes = objects.boxes
    inside = (boxes[:, 0] <= 600) & (boxes[:, 2] >= 200) & (boxes[:, 1] <= 600) & (boxes[:, 3] >= 200)
    if name == "parquet":
        frame = geopandas.read_parquet(path, bbox=window)  # by the column of bounds
    elif name == "geojson":
        frame = geopandas.read_file(path).to_crs(UTM.crs).cx[window[0] : window[2], window[1] : window[3]]
    else:
        frame = geopandas.read_file(path, bbox=window)
        assert pyogrio.read_info(path)["capabilities"]["fast_spatial_filter"]
    assert 0 < len(frame) == inside.sum()
    assert sorted(frame["score"]) == sorted(np.round(objects.scores[inside].astype(float), 4))


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_are_the_same_each_time_however_objects_come(tmp_path, name, monkeypatch):
    monkeypatch.setattr("d2tiny.inference.writers.writer.BLOCK", 256)
    monkeypatch.setattr(table_module, "BLOCK", 256)
    objects, contents = many(1000), set()
    for size in (1000, 300, 7):
        path = tmp_path / str(size) / f"a{FORMATS[name]}"
        with open_writer(path, objects.scene) as writer:
            for start in range(0, 1000, size):
                writer.write(part(objects, start, start + size))
        assert writer.count == 1000
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_gdals_options_are_as_they_were(tmp_path):
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2001-01-01T00:00:00.000Z"})
    try:
        found(BOXES).to_file(tmp_path / "a.gpkg")
        assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") == "2001-01-01T00:00:00.000Z"
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
    found(BOXES).to_file(tmp_path / "b.gpkg")
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") is None
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_a_scene_without_objects_is_a_whole_file(tmp_path, name):
    path = tmp_path / f"a{FORMATS[name]}"
    found([]).to_file(path)
    if name in MAP_FORMATS:
        assert len(read(path)) == 0
    elif name == "csv":
        assert len(path.read_text().splitlines()) == 1
    else:
        assert json.loads(path.read_text())["images"][0]["file_name"] == "scenes/ortho.tif"


@pytest.mark.parametrize("name", MAP_FORMATS)
def test_a_style_for_qgis_lies_beside_a_map(tmp_path, name):
    path = tmp_path / f"a.b{FORMATS[name]}"
    found(BOXES).to_file(path)
    root = ElementTree.fromstring((tmp_path / "a.b.qml").read_text())
    assert root.get("labelsEnabled") == "0"
    renderer = root.find("renderer-v2")
    assert renderer.get("type") == "categorizedSymbol"
    assert renderer.get("attr") in read(path).columns
    assert [c.get("value") for c in renderer.iter("category")] == list(CLASSES)
    for number, category in enumerate(renderer.iter("category")):
        layer = renderer.find(f"symbols/symbol[@name='{category.get('symbol')}']/layer")
        assert layer.get("class") == "SimpleLine"  # an outline: the object is seen
        color = ",".join(map(str, (*class_color(number), 255)))
        assert layer.find("Option/Option[@name='line_color']").get("value") == color
        assert layer.find("prop[@k='line_color']").get("v") == color


def test_tables_and_coco_have_no_style(tmp_path):
    for suffix in (".csv", ".json"):
        found(BOXES).to_file(tmp_path / f"a{suffix}")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", "a.json"]


def test_how_a_map_was_made_is_in_it(tmp_path):
    import pyarrow.parquet

    found(BOXES).to_file(tmp_path / "a.gpkg")
    found(BOXES).to_file(tmp_path / "a.parquet")
    texts = [
        pyogrio.read_info(tmp_path / "a.gpkg")["layer_metadata"]["d2tiny"],
        pyarrow.parquet.read_schema(tmp_path / "a.parquet").metadata[b"d2tiny"],
    ]
    for text in texts:
        assert json.loads(text)["settings"] == {"tile": 800, "stretch": [2.0, 98.0]}


def test_a_table_has_pixels_and_places(tmp_path):
    found(BOXES).to_file(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert [float(first[key]) for key in ("xmin", "ymin", "xmax", "ymax")] == BOXES[0]
    assert second["class"] == CLASSES[1]
    assert (float(first["x"]), float(first["y"])) == (500_010, 4_999_980)
    assert float(first["longitude"]) == pytest.approx(3 + 10 / 78_710, abs=1e-5)  # at 45.15° north
    assert float(first["latitude"]) == pytest.approx(45.153, abs=1e-3)
    found(BOXES, None).to_file(tmp_path / "b.csv")
    with (tmp_path / "b.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == [
            *["class", "xmin", "ymin", "xmax", "ymax", "score", "width_px", "height_px", "scene", "model", "time"]
        ]


def test_a_grid_that_lies_nowhere_on_earth_has_maps_but_no_geojson(tmp_path):
    site = GeoReference('LOCAL_CS["site",UNIT["metre",1]]', (0.5, 0, 0, 0, -0.5, 0))
    for suffix in (".gpkg", ".fgb", ".parquet", ".csv"):
        found(BOXES, site).to_file(tmp_path / f"a{suffix}")
    assert read(tmp_path / "a.gpkg").geometry[0].bounds == (5, -30, 15, -10)
    assert "longitude" not in (tmp_path / "a.csv").read_text()
    with pytest.raises(DatasetError, match="PROJ knows no way from 'site' to 'WGS 84'"):
        found(BOXES, site).to_file(tmp_path / "b.geojson")
    assert not (tmp_path / "b.geojson").exists()


def test_coco_has_the_bytes_that_a_folder_of_images_gets(tmp_path):
    """As predict_folder makes its entries: the same keys in the same order, 2 decimals, scores with 4."""
    first, second = many(700, seed=1), many(300, seed=2, of=scene(None, "b.png"))
    images, entries = [], []
    for number, objects in enumerate((first, second), start=1):
        about = objects.scene
        images.append({"id": number, "file_name": about.path, "width": about.width, "height": about.height})
        for item in objects:
            x, y, w, h = item.box[0], item.box[1], item.box[2] - item.box[0], item.box[3] - item.box[1]
            entry = {"id": len(entries) + 1, "image_id": number, "category_id": item.class_id + 1}
            entry |= {"bbox": [round(v, 2) for v in (x, y, w, h)], "area": round(w * h, 2)}
            entries.append({**entry, "score": round(item.score, 4), "iscrowd": 0})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    write_coco({"images": images, "annotations": entries, "categories": categories}, tmp_path / "expected.json")
    with open_coco(tmp_path / "several.json", CLASSES) as writer:
        for objects in (first, second):
            writer.add_scene(objects.scene)
            for start in range(0, 700, 90):
                writer.write(part(objects, start, start + 90))
    assert (tmp_path / "several.json").read_bytes() == (tmp_path / "expected.json").read_bytes()
    first.to_file(tmp_path / "one.json")
    assert json.loads((tmp_path / "one.json").read_text()) == first.to_coco()
    assert first.to_coco()["annotations"] == entries[:700]


def test_coco_of_many_scenes_holds_those_without_objects_and_refuses_other_classes(tmp_path):
    with open_coco(tmp_path / "a.json", CLASSES) as writer:
        for name in ("a", "b", "c"):
            writer.add_scene(scene(None, name))
    content = json.loads((tmp_path / "a.json").read_text())
    assert [image["id"] for image in content["images"]] == [1, 2, 3] and content["annotations"] == []
    with (
        pytest.raises(ConfigError, match="one list of classes"),
        open_coco(tmp_path / "b.json", CLASSES) as writer,
    ):
        writer.add_scene(scene(None, classes=["car"]))
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
