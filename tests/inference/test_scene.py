"""What was found, as other programs hold it in memory."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest

from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers.scenes import CLASSES, found, many

BOXES = [[10, 20, 30, 60], [100.25, 200.5, 103.75, 209.125]]


def test_iterating_yields_typed_objects():
    first, second = found(BOXES)
    assert first.box == (10, 20, 30, 60) and first.class_name == "car" and first.class_id == 0
    assert second.score == pytest.approx(0.8) and second.class_name == CLASSES[1]


def test_geojson_in_memory_is_that_of_the_file(tmp_path):
    pytest.importorskip("pyproj")
    objects = many(300)
    objects.to_file(tmp_path / "a.geojson")
    assert objects.to_geojson() == json.loads((tmp_path / "a.geojson").read_text())
    with pytest.raises(ConfigError, match=r"no coordinate reference system.*\.json.*\.csv"):
        found(BOXES, None).to_geojson()


def test_pandas_has_the_columns_of_the_table(tmp_path):
    pandas = pytest.importorskip("pandas")
    objects = many(50)
    objects.to_file(tmp_path / "a.csv")
    pandas.testing.assert_frame_equal(
        objects.to_pandas(), pandas.read_csv(tmp_path / "a.csv"), check_dtype=False, check_exact=True
    )
    assert len(found([], None).to_pandas()) == 0


def test_supervision_gets_what_its_detections_take(monkeypatch):
    """A stand-in: supervision itself brings another OpenCV."""
    stand_in = types.ModuleType("supervision")
    stand_in.Detections = lambda **values: types.SimpleNamespace(**values)
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    given = found(BOXES).to_supervision()
    assert given.xyxy.dtype == np.float32 and given.xyxy.tolist() == BOXES
    assert given.confidence.dtype == np.float32 and given.class_id.tolist() == [0, 1]
    assert given.data["class_name"].tolist() == list(CLASSES[:2])
    empty = found([]).to_supervision()
    assert empty.xyxy.shape == (0, 4) and empty.data["class_name"].shape == (0,)


@pytest.mark.parametrize(("module", "method"), [("supervision", "to_supervision"), ("pandas", "to_pandas")])
def test_a_missing_package_is_named(monkeypatch, module, method):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"pip install {module}"):
        getattr(found(BOXES), method)()


def test_without_the_extra_maps_name_it_and_pixels_need_none(monkeypatch, tmp_path):
    for module in ("pyproj", "pyogrio", "pyarrow", "shapely"):
        monkeypatch.setitem(sys.modules, module, None)
    from d2tiny.inference import geo

    geo.get_crs.cache_clear()
    geo.transformer.cache_clear()
    for suffix in (".geojson", ".gpkg", ".fgb", ".parquet"):
        with pytest.raises(ImportError, match=r"d2tiny\[geo\]"):
            found(BOXES).to_file(tmp_path / f"a{suffix}")
    for suffix in (".csv", ".json"):
        found(BOXES, None).to_file(tmp_path / f"a{suffix}")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", "a.json"]


@pytest.mark.parametrize("method", ["to_geojson", "to_coco", "to_supervision", "to_pandas"])
def test_no_number_is_refused_everywhere(method, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", types.ModuleType("supervision"))
    with pytest.raises(DatasetError, match="detection 1 is not finite"):
        getattr(found([BOXES[0], [0, float("nan"), 1, 1]]), method)()
