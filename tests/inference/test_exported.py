"""Exported models in tiles, runs and the command line: what the PyTorch model finds, without importing PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from d2tiny.cli import main
from d2tiny.inference import TiledPredictor, TileSettings, merge_shards, predict_scenes
from d2tiny.runtime import ArrayInstances
from d2tiny.utils.errors import CheckpointError, ConfigError, ImageError
from tests.helpers.exported import metadata, write_onnx, write_openvino
from tests.helpers.runs import content, settings
from tests.helpers.squares import found_squares, predictor, random_boxes, scene, squares_cfg, true_squares

WIDTH, HEIGHT = 330, 270
BOXES = random_boxes(WIDTH, HEIGHT, 60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models, and images: a scene of several tiles, and one that fits into a tile."""
    folder = tmp_path_factory.mktemp("exported")
    write_onnx(folder / "model.onnx")
    (folder / "ir").mkdir()
    write_openvino(folder / "ir" / "model.xml")
    (folder / "in").mkdir()
    cv2.imwrite(str(folder / "in" / "a.png"), scene(WIDTH, HEIGHT, BOXES)[:, :, ::-1])
    cv2.imwrite(str(folder / "in" / "b.png"), scene(120, 100, random_boxes(120, 100, 8))[:, :, ::-1])
    return folder


def exported(path, *args, **options):
    return TiledPredictor.from_export(path, *args, backend="onnxruntime", **options)


def test_the_contract_of_a_tiled_predictor(folder):
    """BGR in; the names of Instances out, as arrays. As an array and as a file, tiled and whole."""
    tiled = exported(folder / "model.onnx", 128, 64)
    image = scene(WIDTH, HEIGHT, BOXES)
    found = tiled(np.ascontiguousarray(image[:, :, ::-1]))["instances"]
    assert isinstance(found, ArrayInstances)
    assert (found.image_size, len(found)) == ((HEIGHT, WIDTH), 60)
    assert (found.pred_boxes.dtype, found.scores.dtype, found.pred_classes.dtype) == (np.float32, np.float32, np.int64)
    data = np.column_stack((found.pred_boxes, found.pred_classes)).round(6)
    np.testing.assert_array_equal(data[np.lexsort(data.T)], true_squares(BOXES))
    np.testing.assert_array_equal(found_squares(tiled.predict_scene(folder / "in" / "a.png")), true_squares(BOXES))
    small = cv2.imread(str(folder / "in" / "b.png"))
    one = tiled(small)["instances"]
    assert isinstance(one, ArrayInstances)
    assert one.image_size == (100, 120)
    np.testing.assert_array_equal(np.sort(one.pred_boxes, axis=0), np.sort(random_boxes(120, 100, 8), axis=0)[:, :4])


@pytest.mark.parametrize(("tile", "overlap", "batch"), [(128, 64, 1), (96, 48, 3), (160, "auto", 2)])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_what_the_model_of_pytorch_finds(folder, tmp_path, tile, overlap, batch, channels):
    """The same boxes to the last bit, whatever the tiles; the graph rounds scores otherwise."""
    write_onnx(tmp_path / "m.onnx", metadata(channels=channels))
    theirs = predictor(tile, overlap, batch=batch, cfg=squares_cfg(FORMAT=channels))[0]
    theirs.merge_settings = exported(tmp_path).merge_settings
    want = theirs.predict_scene(folder / "in" / "a.png")
    got = exported(tmp_path, tile, overlap, batch=batch).predict_scene(folder / "in" / "a.png")
    got, want = (each.take(np.lexsort(each.boxes.T)) for each in (got, want))
    np.testing.assert_array_equal(got.boxes, want.boxes)
    np.testing.assert_array_equal(got.classes, want.classes)
    np.testing.assert_allclose(got.scores, want.scores, atol=1e-6)
    assert got.scene.settings == want.scene.settings


class InPyTorch(torch.nn.Module):
    """An exported model with the contract of Detectron2's models."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        images = np.stack([item["image"].numpy().transpose(1, 2, 0).astype(np.uint8) for item in batch])
        return [{"instances": self.instances(*pair)} for pair in zip(self.model(images), batch, strict=True)]

    def instances(self, found, item):
        result = Instances(tuple(item["image"].shape[1:]))
        result.pred_boxes, result.scores = Boxes(torch.tensor(found.boxes)), torch.tensor(found.scores)
        result.pred_classes = torch.tensor(found.classes).long()
        return detector_postprocess(result, item["height"], item["width"])


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (330, 60), (100, 80)])
@pytest.mark.parametrize(("short", "longest"), [(160, 1000), (100, 1000), (300, 200)])
def test_a_config_that_resizes(tmp_path, size, short, longest):
    """Tiles of a scene have one scale, a whole image its own: with one graph behind both, all bits are the same."""
    resize = {"kind": "shortest_edge", "short": short, "max": longest}
    write_onnx(tmp_path / "m.onnx", metadata(resize=resize, channels="BGR"))
    image = np.ascontiguousarray(scene(*size, random_boxes(*size, 12))[:, :, ::-1])
    ours = exported(tmp_path, 128, 64)
    theirs = predictor(128, 64, cfg=squares_cfg(FORMAT="BGR", MIN_SIZE_TEST=short, MAX_SIZE_TEST=longest))[0]
    theirs.detector._predictor.model = InPyTorch(ours.model)
    theirs.merge_settings = ours.merge_settings
    got, want = ours(image)["instances"], theirs(image)["instances"]
    assert len(got) >= 10
    np.testing.assert_array_equal(got.pred_boxes, want.pred_boxes.tensor.numpy())
    np.testing.assert_array_equal(got.scores, want.scores.numpy())
    np.testing.assert_array_equal(got.pred_classes, want.pred_classes.numpy())


def test_settings_of_the_model(folder, tmp_path, caplog):
    write_onnx(tmp_path / "m.onnx", metadata(nms_thresh=1.0, tile=96, max_size=200))
    tiled = exported(tmp_path)
    assert (tiled.settings, tiled.classes) == (TileSettings(96, "auto", 1), ("red", "blue"))
    assert tiled.merge_settings.nms == 1.0
    with pytest.raises(ConfigError, match=r"--tile 224: .* takes images of up to 200 px"):
        exported(tmp_path, 224)
    image = np.ascontiguousarray(scene(90, 90, [(10, 10, 30, 30, 0), (50, 50, 60, 60, 1)])[:, :, ::-1])
    assert [len(exported(tmp_path, score=s)(image)["instances"]) for s in (None, 0.52, 0.6)] == [2, 1, 0]
    (blue,) = exported(tmp_path, score={"red": 1.0, "*": 0.05})(image)["instances"].pred_classes
    assert blue == 1
    assert "score below" not in caplog.text
    exported(tmp_path, score=0.01)
    assert "was exported without what has a score below 0.05" in caplog.text
    for options, message in (
        ({"tile": 100}, "multiple of 32"),
        ({"tile": 0}, "at least 64 px"),
        ({"overlap": "wide"}, "must be 'auto' or a number of px"),
        ({"batch": 0}, "batch=0"),
        ({"score": 1.5}, r"--score must be in \[0, 1\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            exported(tmp_path, **options)
    with pytest.raises(CheckpointError, match=r"none.onnx: no such file"):
        exported(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "cv2.imread returns None"),
        (np.zeros((50, 50), np.uint8), "Repeat a grey image"),
        (np.zeros((50, 50, 4), np.uint8), "Leave out the alpha channel"),
        (np.zeros((900, 900, 4), np.uint8), "Leave out the alpha channel"),
        (np.full((50, 50, 3), 7.0), "take uint8, got float64"),
    ],
)
def test_no_images(folder, image, message):
    with pytest.raises(ImageError, match=message):
        exported(folder / "model.onnx")(image)


# --- runs ---------------------------------------------------------------------------------------------------------


def predict(folder, output, *more, model="model.onnx"):
    line = ["predict", str(folder / "in"), "--model", str(folder / model), "--output", str(output), "--overlap", "64"]
    return main([*line, *more])


def test_the_command(folder, tmp_path, capsys):
    """Both libraries and both files write the same bytes; scores, classes and places are right."""
    for number, (model, backend) in enumerate((("model.onnx", "onnxruntime"), ("model.onnx", "openvino"), ("ir", ""))):
        options = ["--backend", backend] if backend else []
        assert predict(folder, tmp_path / str(number), *options, model=model) == 0
        told = capsys.readouterr().out
        assert f"(Bright squares), config quick/squares, fp32 by {backend or 'openvino'}." in told
        assert "Classes: red, blue." in told
        assert "2 scenes, 68 objects" in told
    data = [json.loads((tmp_path / str(number) / "detections.json").read_text()) for number in range(3)]
    assert data[0]["annotations"] == data[1]["annotations"] == data[2]["annotations"]
    found = [(*a["bbox"], a["category_id"] - 1) for a in data[0]["annotations"] if a["image_id"] == 1]
    boxes = [(x, y, x + w, y + h, number) for x, y, w, h, number in found]
    np.testing.assert_allclose(sorted(boxes), sorted(BOXES), atol=1e-5)
    assert {"a.jpg", "b.jpg"} <= {p.name for p in (tmp_path / "0").iterdir()}


def test_resuming_and_shards(folder, tmp_path):
    """An interrupted run goes on to the same bytes; so do shards. Another model is another run."""
    predictor = exported(folder / "model.onnx", 128, 64)
    whole, again, parts = (tmp_path / name for name in ("whole", "again", "parts"))
    standard = {"tiles": predictor.settings, "model": "squares"}
    predict_scenes(predictor, [str(folder / "in")], whole, settings(**standard))
    inner, calls = predictor.detector.detect, []

    def stop(images, tile):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return inner(images, tile)

    predictor.detector.detect = stop
    with pytest.raises(KeyboardInterrupt):
        predict_scenes(predictor, [str(folder / "in")], again, settings(**standard))
    predictor.detector.detect = inner
    other = exported(folder / "model.onnx", 128, 64, score=0.51)
    with pytest.raises(ConfigError, match="score"):
        predict_scenes(other, [str(folder / "in")], again, settings(resume=True, **standard))
    predict_scenes(predictor, [str(folder / "in")], again, settings(resume=True, **standard))
    results = {name: data for name, data in content(whole).items() if not name.startswith(".run")}
    assert results.items() <= content(again).items()
    for shard in (1, 2, 3):
        predict_scenes(predictor, [str(folder / "in")], parts, settings(shard=(shard, 3), **standard))
    merge_shards(parts, progress=False)
    assert results.items() <= content(parts).items()


def test_what_does_not_go_with_a_model(folder, tmp_path, capsys):
    for words, named in (
        (["--config", "quick/yolo11_n"], "--config"),
        (["--weights", "a.pth"], "--weights"),
        (["--weights-from", "place"], "--weights-from"),
        (["--bf16"], "--bf16"),
        (["--tta"], "--tta"),
        (["--device", "cuda"], "--device"),
        (["--ray", "auto"], "--ray"),
        (["--register", "a", "b", "c"], "--register"),
        (["model.num_classes=3"], "'model.num_classes=3'"),
        (["--bf16", "--tta"], "--bf16, --tta"),
    ):
        assert predict(folder, tmp_path / "out", *words) == 2
        assert f"model.onnx: leave out {named}. An exported model has" in capsys.readouterr().err
    assert main(["predict", "a.png", "--backend", "openvino"]) == 2
    assert "name one with --model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_take_configs_or_exported_models(tmp_path):
    with pytest.raises(ConfigError, match=r"takes a config, or a predictor of TiledPredictor.from_export"):
        predict_scenes(predictor()[0], [str(tmp_path)], tmp_path / "out", settings())
    write_onnx(tmp_path / "m.onnx")
    for more, message in (
        ({"ray": "auto"}, "--ray does not run"),
        ({"bf16": True}, "--bf16 does not go"),
        ({"tta": True}, "--tta does not go"),
    ):
        with pytest.raises(ConfigError, match=message):
            predict_scenes(exported(tmp_path), [str(tmp_path)], tmp_path / "out", settings(**more))
    assert not (tmp_path / "out").exists()


SCRIPT = """
import sys
from d2tiny.cli import main
assert main(["predict", "in", "--model", "{model}", "--output", sys.argv[1], "--overlap", "auto", "--page"]) == 0
import d2tiny
import numpy as np
predictor = d2tiny.inference.TiledPredictor.from_export("{model}")
assert len(predictor(np.zeros((300, 300, 3), np.uint8))["instances"]) == 0
assert len(predictor.predict_scene("in/a.png")) == 60
found = sorted({{name.partition(".")[0] for name in sys.modules}} & {{"torch", "torchvision", "detectron2", "fvcore"}})
print("FOUND", found)
"""


@pytest.mark.parametrize("model", ["model.onnx", "ir"])
def test_neither_torch_nor_detectron2_is_imported(folder, tmp_path, model):
    """Over an image, a tiled scene, pictures and pages, and in Python."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT.format(model=model), str(tmp_path / "out")]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "FOUND []"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"a.jpg", "a.html", "b.jpg", "b.html", "detections.json"} <= names
