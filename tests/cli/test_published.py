"""`d2tiny predict` and `d2tiny zoo` with published weights, on made-up ones."""

from __future__ import annotations

import json
import shutil

import cv2
import pytest

from d2tiny.utils import published
from tests.helpers.cli import run
from tests.helpers.published import CLASSES, CONFIG, write_manifest, write_model, write_weights


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Two published detectors of one config; the second is the default."""
    folder = tmp_path_factory.mktemp("library")
    other = write_weights(folder, "other", config="quick/yolox_s")
    return write_manifest(folder, write_model(folder, "first"), write_model(folder, "second"), other, default="second")


@pytest.fixture(autouse=True)
def nothing_shipped(tmp_path, monkeypatch):
    monkeypatch.delenv("D2TINY_WEIGHTS", raising=False)
    monkeypatch.setattr(published, "shipped_folder", lambda: tmp_path / "none")


@pytest.fixture
def scene(folder):
    """A working folder with an image, `scene.png`."""
    shutil.copyfile(next((folder / "val").iterdir()), folder / "scene.png")
    return folder


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("", "second"),
        ("--weights first", "first"),
        ("--weights d2tiny://first", "first"),
        (f"--config {CONFIG}", "first"),
    ],
)
def test_predict_takes_published_weights_and_says_which(scene, library, monkeypatch, capsys, options, name):
    monkeypatch.setenv("D2TINY_WEIGHTS", str(library))
    assert run(f"predict scene.png --device cpu --score 0 {options}") == 0
    text = capsys.readouterr().out
    assert f"Detector: {name} (Made-up objects of {name}), config {CONFIG}" in text
    assert "Classes: airplane, bridge, tank, boat, pool, vehicle, person, mill. Made for colour images." in text
    found = json.loads((scene / "found" / "detections.json").read_text())
    assert [category["name"] for category in found["categories"]] == CLASSES  # the manifest's, not the dataset's
    assert (scene / "found" / "scene.jpg").is_file()


def test_the_best_scores_are_those_of_the_weights(scene, tmp_path, capsys):
    """With a score of 1 for all classes but one in the manifest, that one is all that is found."""
    metrics = {"AP": 12.345} | {f"threshold-{name}": 0.0 if name == "boat" else 1.0 for name in CLASSES}
    measured = {"dataset": "aerial_val", "protocol": "aitod", "metrics": metrics}
    place = write_manifest(
        tmp_path / "best",
        write_model(tmp_path / "best", "boats", measured=measured),
        write_model(tmp_path / "best", "unknown"),
        default="boats",
    )
    assert run(f"predict scene.png --device cpu --weights-from '{place}' --score best") == 0
    assert "Lowest scores: airplane 0.995, boat 0, " in capsys.readouterr().out
    found = json.loads((scene / "found" / "detections.json").read_text())
    names = {category["id"]: category["name"] for category in found["categories"]}
    assert {names[annotation["category_id"]] for annotation in found["annotations"]} == {"boat"}
    assert run(f"predict scene.png --device cpu --weights-from '{place}' --weights unknown --score best -o no") == 2
    assert "--score best: they were not measured for unknown. Name a score." in capsys.readouterr().err


def test_weights_from_names_the_place(scene, library, capsys):
    assert run(f"predict scene.png --device cpu --weights-from '{library}' -o out") == 0
    assert "Detector: second" in capsys.readouterr().out


def test_where_nothing_is_named_the_images_decide(scene, tmp_path, capsys):
    """And it is said which was taken, why, and how to take another."""
    place = write_manifest(
        tmp_path / "kinds",
        write_model(tmp_path / "kinds", "boats", kind="colour"),
        write_model(tmp_path / "kinds", "heat", kind="grey"),
        default="heat",
    )
    grey = cv2.imread("scene.png", cv2.IMREAD_GRAYSCALE)
    cv2.imwrite("grey.png", grey)
    line = f"predict --device cpu --weights-from '{place}'"
    assert run(f"{line} scene.png") == 0
    text = capsys.readouterr().out
    assert "No detector is named; boats is taken, as the images are in colour. Others: --weights heat." in text
    assert "Detector: boats" in text
    assert run(f"{line} grey.png") == 0
    text = capsys.readouterr().out
    assert "No detector is named; heat is taken, as the images are grey. Others: --weights boats." in text
    assert "Detector: heat" in text
    assert run(f"{line} grey.png --weights boats -o new") == 0
    assert "No detector is named" not in capsys.readouterr().out
    assert run(f"{line} grey.png scene.png -o none") == 2
    assert "grey.png is grey and scene.png in colour" in capsys.readouterr().err
    assert not (scene / "none").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "No detector is named: give --config NAME --weights FILE"),
        ("--config quick/yolox_s", "No weights are published for quick/yolox_s: give --weights FILE"),
        ("--config quick/yolox_ss", "Did you mean 'quick/yolox_s'"),
        ("--weights no.pth", "--weights no.pth: no such file."),
        ("--weights scene.png", "--weights scene.png: name the config that they are of with --config."),
        ("--weights d2tiny://x", "d2tiny://x: no published weights have this name. None are published."),
        ("--weights-from no", "manifest.json: cannot read this list of published weights"),
    ],
)
def test_without_published_weights_the_message_says_what_to_give(scene, capsys, options, message):
    assert run(f"predict scene.png --device cpu {options}") == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Published weights:" not in error
    assert not (scene / "found").exists()


@pytest.mark.parametrize("options", ["--config quick/dino_r18", "--weights no.pth", "--weights scene.png"])
def test_what_is_published_is_offered(scene, library, capsys, options):
    assert run(f"predict scene.png --device cpu --weights-from '{library}' {options}") == 2
    assert "Published weights: first, second, other (d2tiny zoo --published)." in capsys.readouterr().err


def test_a_damaged_file_is_refused(scene, library, tmp_path, capsys):
    copy = shutil.copytree(library, tmp_path / "copy")
    with (copy / "second.pth").open("r+b") as file:
        file.seek(1000)
        file.write(b"x")
    assert run(f"predict scene.png --device cpu --weights-from '{copy}'") == 2
    assert "second.pth is damaged or another file: its sha256" in capsys.readouterr().err


def test_the_zoo_lists_weights(folder, library, monkeypatch, capsys):
    assert run("zoo --published") == 0
    assert "No weights are published here; --weights-from names" in capsys.readouterr().out
    monkeypatch.setenv("D2TINY_WEIGHTS", str(library))
    assert run("zoo --published") == 0
    rows = capsys.readouterr().out.splitlines()
    columns = ["weights", "MB", "licence", "data", "classes", "AP", "AP50", "measured", "on", "config"]
    assert rows[0].split() == columns
    assert [row.split()[0] for row in rows[2:]] == ["first", "second", "other"]
    size = (library / "second.pth").stat().st_size / 1e6
    second = ["second", "(default)", f"{size:.1f}", "CC-BY-4.0", "Scenes", *", ".join(CLASSES).split()]
    assert rows[3].split() == [*second, "12.3", "-", "aerial_val", CONFIG]
    assert run("zoo --published 'quick/yolox*'") == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[2:]] == ["other"]
    assert run("zoo --published secnd") == 2
    assert "No published weights match 'secnd'. Did you mean 'second'?" in capsys.readouterr().err


def test_the_list_of_configs_says_which_have_weights(folder, library, capsys):
    assert run(f"zoo 'quick/yolo*' --weights-from '{library}'") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line}
    assert lines[-1].startswith("Published weights (first, second, other): d2tiny zoo --published")
    assert "weights" in rows["config"]
    assert "  first, second  " in rows[CONFIG]
    assert "  other  " in rows["quick/yolox_s"]
    assert run("zoo 'quick/yolo*'") == 0
    assert "weights" not in capsys.readouterr().out.splitlines()[0]
