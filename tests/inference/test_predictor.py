"""`TiledPredictor` with a detector that finds bright squares exactly, and with a real one where a tile is the image."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances

from d2tiny import model_zoo
from d2tiny.inference import TiledPredictor
from d2tiny.inference.raster import open_pixels
from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers.made_rasters import UTM, geotiff, make, north_up
from tests.helpers.published import random_model
from tests.helpers.squares import CONFIG, found_squares, predictor, random_boxes, scene, squares_cfg, true_squares

WIDTH, HEIGHT = 330, 270
BOXES = random_boxes(WIDTH, HEIGHT, 60)


@pytest.fixture(scope="module")
def image():
    return scene(WIDTH, HEIGHT, BOXES)


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    """A real detector with random weights, which finds a lot."""
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": random_model().state_dict()}, path)
    cfg = model_zoo.get_cfg(CONFIG, str(path), device="cpu")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    return cfg


def test_the_contract_of_default_predictor(image):
    """BGR in, instances in px of the image out."""
    tiled, detector = predictor()
    outputs = tiled(np.ascontiguousarray(image[:, :, ::-1]))
    assert list(outputs) == ["instances"]
    found = outputs["instances"]
    assert isinstance(found, Instances) and isinstance(found.pred_boxes, Boxes)
    assert found.image_size == (HEIGHT, WIDTH)
    assert (found.pred_boxes.tensor.dtype, found.scores.dtype) == (torch.float32, torch.float32)
    assert found.pred_classes.dtype == torch.int64
    np.testing.assert_array_equal(found_squares(found), true_squares(BOXES))
    assert len(detector.inputs) > 6 and max(max(size) for [size] in detector.inputs) == 128


def test_an_image_that_fits_into_a_tile_is_that_of_default_predictor(cfg, tmp_path):
    """Bit for bit, as an array and as a file; whatever the config resizes it to."""
    image = np.random.default_rng(0).integers(0, 255, (96, 121, 3), dtype=np.uint8)
    cfg = cfg.clone()
    cv2.imwrite(str(tmp_path / "a.png"), image)
    for short in (0, 64):
        cfg.INPUT.MIN_SIZE_TEST = short
        want = DefaultPredictor(cfg)(image)["instances"]
        assert len(want) > 5
        tiled = TiledPredictor(cfg, tile=128)
        got, scene = tiled(image)["instances"], tiled.predict_scene(tmp_path / "a.png")
        for other in (got, scene):
            boxes = other.pred_boxes.tensor if other is got else other.boxes
            classes = other.pred_classes if other is got else other.classes
            order = np.lexsort(np.column_stack((np.asarray(boxes), np.asarray(other.scores))).T)
            wanted = np.lexsort(np.column_stack((want.pred_boxes.tensor.numpy(), want.scores.numpy())).T)
            np.testing.assert_array_equal(np.asarray(boxes)[order], want.pred_boxes.tensor.numpy()[wanted])
            np.testing.assert_array_equal(np.asarray(other.scores)[order], want.scores.numpy()[wanted])
            np.testing.assert_array_equal(np.asarray(classes)[order], want.pred_classes.numpy()[wanted])


@pytest.mark.parametrize(("tile", "overlap"), [(128, 64), (96, 48), (160, 45), (256, 64)])
def test_tiles_find_what_is_there(tmp_path, image, tile, overlap):
    cv2.imwrite(str(tmp_path / "a.png"), image[:, :, ::-1])
    tiled, _ = predictor(tile, overlap)
    found = tiled.predict_scene(tmp_path / "a.png")
    np.testing.assert_array_equal(found_squares(found), true_squares(BOXES))
    assert (found.scene.width, found.scene.height, found.scene.name) == (WIDTH, HEIGHT, "a")
    assert found.crs is None and found.transform is None
    assert {d.class_name for d in found} == set(tiled.classes[:2])


def test_objects_larger_than_the_overlap_are_joined(tmp_path):
    boxes = [(10, 20, 320, 60, 0), (40, 80, 70, 265, 1), (90, 90, 320, 260, 0)]
    cv2.imwrite(str(tmp_path / "a.png"), scene(WIDTH, HEIGHT, boxes)[:, :, ::-1])
    found = predictor(96, 32)[0].predict_scene(tmp_path / "a.png")
    np.testing.assert_array_equal(found_squares(found), true_squares(boxes))


@pytest.mark.parametrize("batch", [2, 3, 64])
def test_the_result_does_not_depend_on_the_batch(tmp_path, image, batch):
    """And tiles of one size only share one: padding would change what a model finds."""
    cv2.imwrite(str(tmp_path / "a.png"), image[:, :, ::-1])
    first = predictor()[0].predict_scene(tmp_path / "a.png")
    tiled, detector = predictor(batch=batch)
    found = tiled.predict_scene(tmp_path / "a.png")
    for name in ("boxes", "scores", "classes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(first, name))
    assert all(len(set(sizes)) == 1 for sizes in detector.inputs)
    assert max(map(len, detector.inputs)) > 1


def test_resized_configs_keep_one_scale_over_tiles(image):
    """The tile is doubled; so are those at the border, which are smaller, and no object is torn between scales."""
    tiled, detector = predictor(cfg=squares_cfg(MIN_SIZE_TEST=256, MAX_SIZE_TEST=4000))
    found = tiled(np.ascontiguousarray(image[:, :, ::-1]))["instances"]
    np.testing.assert_allclose(found_squares(found), true_squares(BOXES), atol=1)
    sizes = {size for [size] in detector.inputs}
    assert (256, 256) in sizes and len(sizes) > 1
    # A scene that is lower than a tile: its short side would be enlarged to 256 px too.
    boxes = random_boxes(300, 60, 20)
    detector.inputs.clear()
    found = tiled(np.ascontiguousarray(scene(300, 60, boxes)[:, :, ::-1]))["instances"]
    assert {h for [(h, _)] in detector.inputs} == {120}
    np.testing.assert_allclose(found_squares(found), true_squares(boxes), atol=1)


@pytest.mark.parametrize("kind", ["utm", "geographic", "rotated", "non_square", "south_up", "web_mercator", "uint16"])
def test_polygons_lie_on_the_objects(tmp_path, image, kind):
    """GeoTIFF to GeoJSON, read by another library, back in px of the raster."""
    rasterio, geopandas = pytest.importorskip("rasterio"), pytest.importorskip("geopandas")
    path = make(kind, np.ascontiguousarray(image.transpose(2, 0, 1)), tmp_path)
    found = predictor()[0].predict_scene(path, stretch="300,9300")
    found.to_file(tmp_path / "found.geojson")
    frame = geopandas.read_file(tmp_path / "found.geojson")
    assert frame.crs.to_epsg() == 4326 and len(frame) == len(BOXES)
    with rasterio.open(path) as file:
        outlines = frame.to_crs(file.crs).geometry
        inverse = ~file.transform
        assert found.crs == f"EPSG:{file.crs.to_epsg()}" and found.transform == tuple(file.transform)[:6]
    corners = [np.array([inverse @ point for point in outline.exterior.coords]) for outline in outlines]
    got = [(*c.min(axis=0), *c.max(axis=0), n) for c, n in zip(corners, found.classes, strict=True)]
    got = np.array(got).round(1)
    np.testing.assert_allclose(got[np.lexsort(got.T)], true_squares(BOXES), atol=0.1)
    # Rotated rasters have rotated outlines: their corners, not their bounds, are those of the squares.
    assert all(len(c) == 5 and (np.abs(c[:, None] - c[None]).max(axis=2) < 0.1).sum() >= 6 for c in corners)


def test_resampled_scenes_give_boxes_in_px_of_the_file(tmp_path, image):
    """Read at half its size and at twice: squares are found where they are, to half a px that was looked at."""
    pytest.importorskip("rasterio")
    path = make("utm", np.ascontiguousarray(image.transpose(2, 0, 1)), tmp_path)
    for gsd, tolerance in ((1.0, 2.0), (0.25, 0.6)):
        tiled, _ = predictor()
        found = tiled.predict_scene(path, gsd=gsd)
        assert (found.scene.width, found.scene.height) == (WIDTH, HEIGHT)
        got, want = found_squares(found), true_squares(BOXES)
        if gsd < 0.5:
            assert len(got) == len(want)
        distance = np.abs(got[:, None, :4] - want[None, :, :4]).max(axis=2).min(axis=1)
        assert (distance <= tolerance).mean() > 0.9


def alpha_raster(folder, image, valid):
    values = np.concatenate((image.transpose(2, 0, 1), valid[None].astype(np.uint8) * 255))
    return geotiff(folder / "alpha.tif", values, photometric="RGB", alpha="YES")


def test_tiles_without_data_are_skipped_and_objects_there_dropped(tmp_path):
    pytest.importorskip("rasterio")
    boxes = [(20, 30, 40, 50, 0), (126, 100, 138, 110, 0), (133, 200, 143, 210, 1), (250, 50, 270, 70, 0)]
    boxes.append((20, 200, 40, 220, 1))
    valid = np.zeros((HEIGHT, WIDTH), np.bool_)
    valid[:, :134] = True
    tiled, detector = predictor(96, 32)
    found = tiled.predict_scene(alpha_raster(tmp_path, scene(WIDTH, HEIGHT, boxes), valid))
    # The second has data in 8 of its 12 columns, the third in 1 of 10.
    np.testing.assert_array_equal(found_squares(found), true_squares([boxes[0], boxes[1], boxes[4]]))
    grid = tiled.grid(open_pixels(tmp_path / "alpha.tif"))
    assert len(detector.inputs) == sum(grid.window(i)[0] < 134 for i in range(len(grid))) < len(grid)


def test_an_area_is_searched_alone(tmp_path, image):
    """In coordinates of its own; objects with their centre inside, also those that its edge cuts."""
    pytest.importorskip("rasterio")
    pyproj = pytest.importorskip("pyproj")
    path = make("utm", np.ascontiguousarray(image.transpose(2, 0, 1)), tmp_path)
    ring = np.array([(100, 50), (200, 50), (200, 150), (100, 150), (100, 50)])
    metres = np.array([north_up() @ (float(x), float(y)) for x, y in ring])
    degrees = np.column_stack(pyproj.Transformer.from_crs(UTM, 4326, always_xy=True).transform(*metres.T)).tolist()
    area = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [degrees]}}
    (tmp_path / "area.geojson").write_text(json.dumps(area))
    tiled, detector = predictor(96, 48)
    found = tiled.predict_scene(path, aoi=tmp_path / "area.geojson")
    inside = [b for b in BOXES if 100 < (b[0] + b[2]) / 2 < 200 and 50 < (b[1] + b[3]) / 2 < 150]
    assert 3 < len(inside) < len(BOXES)
    np.testing.assert_array_equal(found_squares(found), true_squares(inside))
    searched, detector.inputs = len(detector.inputs), []
    tiled.predict_scene(path)
    assert searched < len(detector.inputs)
    with pytest.raises(ConfigError, match="has no coordinates"):
        tiled.predict_scene(make("png", image.transpose(2, 0, 1), tmp_path), aoi=tmp_path / "area.geojson")


def test_automatic_overlap_follows_the_largest_objects(tmp_path):
    boxes = [(x, y, x + 90, y + 40, 0) for y in range(0, 850, 70) for x in range(0, 800, 110)]
    for name, objects, overlap in (("large", boxes, 128), ("none", [], 64)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), scene(900, 900, objects)[:, :, ::-1])
        tiled, _ = predictor(384, "auto")
        assert tiled.grid(open_pixels(tmp_path / f"{name}.png")).overlap == overlap
        assert len(tiled.predict_scene(tmp_path / f"{name}.png")) == len(objects)


def test_low_scores_are_left_out(cfg):
    image = np.random.default_rng(0).integers(0, 255, (150, 240, 3), dtype=np.uint8)
    everything = TiledPredictor(cfg, 96, 32, score=0.0)(image)["instances"].scores
    assert len(everything) > 20
    best = float(everything.max())
    assert not len(TiledPredictor(cfg, 96, 32, score=best + 1e-4)(image)["instances"])


class HalfBlind(torch.nn.Module):
    """Finds an object in the middle with 0.4, and every other time one in the upper corners with the same score."""

    calls = 0

    def forward(self, inputs):
        self.calls += 1
        found = []
        for one in inputs:
            height, width = one["height"], one["width"]
            boxes = [[width / 2 - 5, 20, width / 2 + 5, 30], [0, 0, 10, 10]][: 1 + self.calls % 2]
            instances = Instances((height, width), pred_boxes=Boxes(torch.tensor(boxes)))
            instances.scores, instances.pred_classes = torch.full((len(boxes),), 0.4), torch.zeros(len(boxes)).long()
            found.append({"instances": instances})
        return found


@pytest.mark.parametrize("tile", [96, 256], ids=["tiles", "whole"])
@pytest.mark.parametrize(("score", "best"), [(0.1, 2), (0.3, 1), ({"*": 0.3, "ship": 0.1}, 1)])
def test_the_lowest_score_is_that_of_the_fused_views(cfg, tile, score, best):
    """What one of two views sees has half of its score, whatever the model itself leaves out of each view."""
    tiled = TiledPredictor(cfg, tile, 0, score=score, tta=True)
    tiled.detector.model.model = HalfBlind()
    found = tiled(np.zeros((90, 192, 3), np.uint8))["instances"]
    assert {round(score, 6) for score in found.scores.tolist()} == {0.4, 0.2 if best == 2 else 0.4}


@pytest.mark.parametrize("tile", [96, 256], ids=["tiles", "whole"])
def test_low_scores_of_a_class_are_left_out(cfg, tile):
    image = np.random.default_rng(0).integers(0, 255, (150, 240, 3), dtype=np.uint8)
    everything = TiledPredictor(cfg, tile, 32, score=0.0)
    found = everything(image)["instances"]
    most = int(found.pred_classes.bincount().argmax())
    name = everything.classes[most]
    rest = TiledPredictor(cfg, tile, 32, score={name: 1.0, "*": 0.0})(image)["instances"]
    assert 0 < len(rest) < len(found)
    assert most not in rest.pred_classes
    torch.testing.assert_close(rest.scores, found.scores[found.pred_classes != most], atol=0, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 100}, "multiple of 32"),
        ({"tile": 32}, "at least 64 px"),
        ({"overlap": 500}, "half of their side"),
        ({"overlap": "wide"}, "overlap='wide' must be 'auto' or a number of px"),
        ({"batch": 0}, "batch=0 must be at least 1"),
        ({"score": 1.5}, r"--score must be in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        TiledPredictor(squares_cfg(), **options)


def test_a_scene_that_cannot_be_read(tmp_path):
    tiled, _ = predictor()
    (tmp_path / "a.tif").write_bytes(b"II*\0 no tiff")
    for name in ("a.tif", "none.tif"):
        with pytest.raises(DatasetError, match=f"{name}: cannot read"):
            tiled.predict_scene(tmp_path / name)
