"""`tools/demo.py`, which is `d2tiny predict` with other names of options: folders of small images."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate

from d2tiny import model_zoo
from d2tiny.cli.predict import demo_main
from d2tiny.inference import TiledPredictor, bulk, collect_scenes, predict_folder, preview
from d2tiny.inference.sources import SCENE_SUFFIXES
from d2tiny.utils.errors import DatasetError

CONFIG = "quick/faster_rcnn_r18_fpn_rfla"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": instantiate(model_zoo.get_config(CONFIG).model).state_dict()}, path)
    return path


def write(path, size=(60, 90)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
    return path


def shown(folder):
    """What a user sees of a folder: not the journal."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def run(weights, inputs, output, *more):
    arguments = ["--config", CONFIG, "--weights", str(weights), "--device", "cpu", "--output", str(output)]
    return demo_main([*arguments, "--input", *map(str, inputs), *more])


def test_pictures_and_json(tmp_path, weights):
    write(tmp_path / "in" / "a.png")
    write(tmp_path / "in" / "b.jpg", (40, 50))
    write(tmp_path / "other" / "a.png")
    assert run(weights, [tmp_path / "in", tmp_path / "other" / "*.png"], tmp_path / "out", "--score", "0.05") == 0
    assert shown(tmp_path / "out") == ["a.jpg", "a_2.jpg", "b.jpg", "detections.json"]
    data = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [(i["id"], i["width"], i["height"]) for i in data["images"]] == [(1, 90, 60), (2, 50, 40), (3, 90, 60)]
    assert [c["name"] for c in data["categories"]][3] == "ship"
    assert data["annotations"]
    for annotation in data["annotations"]:
        x, y, w, h = annotation["bbox"]
        assert annotation["score"] >= 0.05
        assert 0 <= x <= x + w <= 90.01
        assert 0 <= y <= y + h <= 60.01


def test_a_score_by_class(tmp_path, weights):
    write(tmp_path / "a.png")
    assert run(weights, [tmp_path / "a.png"], tmp_path / "out", "--score", "0.05") == 0
    everything = json.loads((tmp_path / "out" / "detections.json").read_text())
    names = {c["id"]: c["name"] for c in everything["categories"]}
    first = names[everything["annotations"][0]["category_id"]]
    assert run(weights, [tmp_path / "a.png"], tmp_path / "some", "--score", f"{first}=1,0.05") == 0
    some = json.loads((tmp_path / "some" / "detections.json").read_text())
    left = [a["bbox"] for a in everything["annotations"] if names[a["category_id"]] != first]
    assert len(left) < len(everything["annotations"])
    assert [a["bbox"] for a in some["annotations"]] == left


def test_a_broken_image_is_named_and_the_others_are_done(tmp_path, weights, capsys):
    write(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "a.png").write_bytes(b"broken")
    assert run(weights, [tmp_path / "in"], tmp_path / "out") == 1
    assert "a.png: cannot read this image" in capsys.readouterr().err
    assert (tmp_path / "out" / "b.jpg").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--score", "7"], "--score must be in"),
        (["--score", "boat=0.5"], "--score boat=…: the detector has no such class."),
        (["--score", "best"], "--score best is known of published weights only"),
        (["--opts", "model.roi_headz.x=1"], "Did you mean 'roi_heads'"),
    ],
)
def test_bad_arguments(tmp_path, weights, capsys, more, message):
    write(tmp_path / "a.png")
    assert run(weights, [tmp_path / "a.png"], tmp_path / "out", *more) == 2
    assert message in capsys.readouterr().err
    assert run(tmp_path / "no.pth", [tmp_path / "a.png"], tmp_path / "out") == 2
    assert "no.pth: no such file" in capsys.readouterr().err


@pytest.fixture
def three(tmp_path):
    return [write(tmp_path / "in" / f"{name}.png", (40, 40)) for name in "abc"]


def done(output):
    return [Path(image["file_name"]).name for image in json.loads((output / "detections.json").read_text())["images"]]


def at_the_second(action):
    """A predictor that does something else with its second image."""
    inner, calls = TiledPredictor.detect, []

    def detect(self, images, **options):
        calls.append(images)
        return action() if len(calls) == 2 else inner(self, images, **options)

    return detect


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_an_image_without_enough_memory_loses_no_other(tmp_path, weights, three, monkeypatch, capsys, error):
    def fails():
        raise error

    monkeypatch.setattr(TiledPredictor, "detect", at_the_second(fails))
    assert run(weights, three, tmp_path / "out") == 1
    assert done(tmp_path / "out") == ["a.png", "c.png"]
    assert "b.png: this image does not fit into memory" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_keeps_what_is_done(tmp_path, weights, three, monkeypatch, capsys, number, code):
    monkeypatch.setattr(TiledPredictor, "detect", at_the_second(lambda: os.kill(os.getpid(), number)))
    assert run(weights, three, tmp_path / "out") == code
    assert done(tmp_path / "out") == ["a.png"]
    assert shown(tmp_path / "out") == ["a.jpg", "detections.json"]
    monkeypatch.undo()
    assert run(weights, three, tmp_path / "out", "--resume") == 0
    assert done(tmp_path / "out") == ["a.png", "b.png", "c.png"]
    assert "all found before" not in capsys.readouterr().out
    assert run(weights, three, tmp_path / "out", "--resume") == 0
    assert "3 scenes, 0 objects, all found before.\n" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to_any_more(tmp_path, weights, three, monkeypatch, capsys):
    """The second picture and the json fail: the json goes to another folder, which the message names."""
    real, output = preview.open_atomic, tmp_path / "out"

    def full(path):
        if path.name == "b.jpg":
            raise OSError(28, "No space left on device")
        return real(path)

    def open_json(path, classes):
        if path.parent == output:
            raise OSError(30, "Read-only file system")
        return open_coco(path, classes)

    open_coco = bulk.open_coco
    monkeypatch.setattr(preview, "open_atomic", full)
    monkeypatch.setattr(bulk, "open_coco", open_json)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run(weights, three, output) == 1
    error = capsys.readouterr().err
    assert "cannot write this: No space left" in error
    assert "b.png" in error
    assert "detections.json: Read-only file system. The detections are in" in error
    [other] = tmp_path.glob("d2tiny-*/detections.json")
    assert done(other.parent) == ["a.png", "c.png"]


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_weights_that_are_none(tmp_path, weights, three, capsys, content):
    (tmp_path / "x.pth").write_bytes(content)
    assert run(tmp_path / "x.pth", three, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "x.pth" in error
    assert "Traceback" not in error


def test_inputs_are_never_overwritten(tmp_path, weights, capsys):
    path = write(tmp_path / "a.jpg")
    before = path.read_bytes()
    assert run(weights, [tmp_path], tmp_path) == 2
    assert "would overwrite an input" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_weights_of_another_config_are_refused(tmp_path, weights, capsys):
    write(tmp_path / "a.png")
    arguments = ["--config", "quick/faster_rcnn_r18_efpnbs_rfla_dcloss", "--weights", str(weights), "--device", "cpu"]
    assert demo_main([*arguments, "--output", str(tmp_path / "out"), "--input", str(tmp_path / "a.png")]) == 2
    assert "does not fit the model" in capsys.readouterr().err


def test_nothing_to_do(tmp_path):
    with pytest.raises(DatasetError, match="no image here"):
        collect_scenes([str(tmp_path / "*.png")])
    for text in ("x" * 5000, f"{tmp_path}/a\0*.png", "\udcff"):
        with pytest.raises(DatasetError, match=r"cannot look for images here|no image here") as raised:
            collect_scenes([text])
        assert len(str(raised.value)) < 400


def test_inputs_are_files_folders_globs_urls_and_lists(tmp_path, monkeypatch):
    """Each once, sorted; a list's names are relative to the list."""
    monkeypatch.chdir(tmp_path)
    names = ["in/b.png", "in/a.TIF", "in/deep/c.jp2", "in/d.vrt", "in/text.md"]
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    url = "https://example.org/x/ortho.tif"
    Path("in/list.txt").write_text(f"\ufeff# scenes\nb.png\n\n  deep/c.jp2 \n{url}\n", encoding="utf-8")
    assert collect_scenes(["in"]) == ["in/a.TIF", "in/b.png", "in/d.vrt"]
    assert collect_scenes(["in/**/*", "in/b.png"]) == ["in/a.TIF", "in/b.png", "in/d.vrt", "in/deep/c.jp2"]
    assert collect_scenes(["in/list.txt", "in/b.png"]) == [url, "in/b.png", "in/deep/c.jp2"]
    assert collect_scenes(["in/text.md"]) == ["in/text.md"]  # named: it is told later what is wrong with it
    assert {".tif", ".png", ".jp2", ".vrt"} <= SCENE_SUFFIXES


def test_the_thin_door_of_python(tmp_path, weights, three):
    cfg = model_zoo.get_cfg(CONFIG, str(weights), device="cpu")
    (tmp_path / "in" / "d.png").write_bytes(b"broken")
    [message] = predict_folder(cfg, [str(tmp_path / "in")], tmp_path / "out", score=0.9, progress=False)
    assert "d.png: cannot read this image" in message
    assert done(tmp_path / "out") == ["a.png", "b.png", "c.png"]
    assert json.loads((tmp_path / "out" / "failed.json").read_text()) == [
        {"scene": str(tmp_path / "in" / "d.png"), "error": message}
    ]


def test_grayscale_and_rgba(tmp_path, weights):
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((50, 60), 90, np.uint8))
    cv2.imwrite(str(tmp_path / "rgba.png"), np.full((50, 60, 4), 90, np.uint8))
    assert run(weights, [tmp_path / "gray.png", tmp_path / "rgba.png"], tmp_path / "out") == 0


def test_bf16_finds_about_the_same(tmp_path, weights):
    """Random weights: the scores hardly differ, so the best detections of both must lie near each other."""
    write(tmp_path / "in" / "a.png")
    best = []
    for more in ((), ("--bf16",)):
        output = tmp_path / f"out{len(more)}"
        assert run(weights, [tmp_path / "in"], output, "--score", "0.05", *more) == 0
        found = json.loads((output / "detections.json").read_text())["annotations"]
        best.append(max(found, key=lambda a: a["score"]))
        assert all(np.isfinite(a["score"]) for a in found)
    assert best[0]["score"] == pytest.approx(best[1]["score"], abs=0.02)
    assert best[0] != best[1], "bfloat16 was not used"


def test_a_pipe_is_named_and_the_others_are_done(tmp_path, weights, capsys):
    """In a folder or by its name; opening it would wait for ever."""
    write(tmp_path / "in" / "b.png")
    os.mkfifo(tmp_path / "in" / "a.png")
    for i, inputs in enumerate(([tmp_path / "in"], [tmp_path / "in" / "a.png", tmp_path / "in" / "b.png"])):
        assert run(weights, inputs, tmp_path / f"out{i}") == 1
        assert "a.png is a pipe, socket or device, not a file" in capsys.readouterr().err
        data = json.loads((tmp_path / f"out{i}" / "detections.json").read_text())
        assert [image["file_name"] for image in data["images"]] == [str(tmp_path / "in" / "b.png")]


def test_deep_images_are_scaled(tmp_path, weights, capsys):
    """By percentiles, or as it is told; and it says how."""
    pytest.importorskip("rasterio")
    (tmp_path / "in").mkdir()
    values = np.full((60, 90), 3000, np.uint16)
    values[:, :30], values[:, 60:] = 2000, 4000
    cv2.imwrite(str(tmp_path / "in" / "a.png"), values)
    for more, grey in (((), (0, 127.5, 255)), (("--stretch", "0,6000"), (85, 127.5, 170))):
        assert run(weights, [tmp_path / "in"], tmp_path / "out", *more) == 0
        error = capsys.readouterr().err
        assert error.count("band 1 as grey; uint16 values") == 1, error
        assert f"uint16 values {'0 to 6000' if more else '2000 to 4000'} as 0 to 255" in error
        row = cv2.imread(str(tmp_path / "out" / "a.jpg"))[3, :, 0].astype(int)
        scale = len(row) // 90
        assert row[[4 * scale, 45 * scale, 86 * scale]] == pytest.approx(grey, abs=2)
