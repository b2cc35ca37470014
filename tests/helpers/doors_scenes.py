"""Doors of whole scenes: rasters that are read in windows, areas, lists of scenes, journals of runs."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np

from d2tiny.inference import collect_scenes
from d2tiny.inference.area import read_area
from d2tiny.inference.pixels import ReadSettings
from d2tiny.inference.raster import open_pixels
from d2tiny.inference.scene import GeoReference
from tests.helpers.door import Door, of_bytes, of_json

RASTERS = ("tiled", "uint16", "nan", "alpha", "palette", "rotated", "jp2", "gcps")
PLACE = GeoReference("EPSG:32631", (0.5, 0.0, 448_000.0, 0.0, -0.5, 5_411_500.0))
RING = [[2.289, 48.853], [2.292, 48.853], [2.292, 48.855], [2.289, 48.853]]
AREA = {
    "type": "FeatureCollection",
    "features": [
        {"type": "Feature", "properties": {"name": "a"}, "geometry": {"type": "Polygon", "coordinates": [RING]}},
        {"type": "Feature", "properties": {}, "geometry": {"type": "MultiPolygon", "coordinates": [[RING]]}},
    ],
}


@functools.cache
def _rasters():
    from tests.helpers.made_rasters import make

    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 255, (3, 8, 10)), np.ones((1, 6, 6))).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        return [make(kind, image, Path(folder)).read_bytes() for kind in RASTERS]


def _scene(root):
    """Read windows: of the size that was asked for, or one of our errors."""
    for settings in (ReadSettings(), ReadSettings(bands=(1,), gsd=0.7, stretch="0,2000"), ReadSettings(resize=0.5)):
        pixels = open_pixels(root / "scene.tif", settings)
        try:
            assert pixels.width >= 1 and pixels.height >= 1
            x, y = min(40, pixels.width), min(30, pixels.height)
            assert pixels.read(0, 0, x, y).shape == (y, x, 3)
            valid = pixels.valid(0, 0, x, y)
            assert valid is None or (valid.shape == (y, x) and not valid.all())
        finally:
            pixels.close()


def _area(root):
    area = read_area(root / "area.geojson").in_pixels(PLACE, 4000, 3000)
    boxes = np.array([[0, 0, 10, 10], [1500, 900, 1600, 1000.0]])
    assert area.contains_centres(boxes).shape == (2,)


def _list(root):
    assert all(scene.strip() for scene in collect_scenes([str(root / "list.txt")]))


DOORS = {
    "scene": Door("scene.tif", lambda rng: of_bytes(*_rasters())(rng), _scene, every=8),
    "area": Door("area.geojson", of_json(AREA), _area, every=4),
    "list of scenes": Door("list.txt", of_bytes(b"1.png\n# none\n\nsub/2.tif\nhttps://x.org/a.tif\n"), _list),
}
