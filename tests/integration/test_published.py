"""`d2tiny predict` with the weights that come with d2tiny, on real images; skipped where these are absent."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from d2tiny.cli import main
from d2tiny.ops.boxes import pairwise_iou
from d2tiny.utils.published import read_manifest, shipped_folder

pytestmark = [pytest.mark.real_data, pytest.mark.slow]
WEIGHTS = {weights.name: weights for weights in read_manifest(shipped_folder()).weights}
# Weights, whether they are the default for such images, folder of the data, begin of file names, class; least share
# found, and right of what is found.
CASES = (
    ("thermal", True, "hituav", "", "person", 0.6, 0.4),
    ("colour_x2", True, "aerial", "s2_", "ship", 0.5, 0.25),
    ("colour_x2", True, "aerial", "kit_", "vehicle", 0.6, 0.4),
    ("colour_x2", True, "aerial", "airbus_", "airplane", 0.35, 0.5),
    ("colour", False, "aerial", "kit_", "vehicle", 0.6, 0.4),
)


def boxes(entries, category):
    found = np.array([a["bbox"] for a in entries if a["category_id"] == category and not a["iscrowd"]]).reshape(-1, 4)
    return torch.from_numpy(np.concatenate((found[:, :2], found[:, :2] + found[:, 2:]), axis=1)).float()


def category(data, name):
    return next(entry["id"] for entry in data["categories"] if entry["name"] == name)


def test_images_of_the_cameras_own_size_are_halved(shared_data, tmp_path):
    """The thermal detector was trained on halved images; at twice the size it loses people."""
    truth = json.loads((shared_data / "hituav" / "instances_val.json").read_text())
    wanted = category(truth, "person")
    counts = np.bincount([a["image_id"] for a in truth["annotations"] if a["category_id"] == wanted])
    image = next(entry for entry in truth["images"] if entry["id"] == int(counts.argmax()))
    small = Image.open(shared_data / "hituav" / "val" / image["file_name"])
    small.save(tmp_path / "small.png")
    small.resize((2 * small.width, 2 * small.height), Image.Resampling.BICUBIC).save(tmp_path / "native.png")
    found = {}
    for name, options in (("small", []), ("native", []), ("native", ["--resize", "0.5"])):
        output = tmp_path / f"{name}{len(options)}"
        source = str(tmp_path / f"{name}.png")
        assert main(["predict", source, "--device", "cpu", "--weights", "thermal", "-o", str(output), *options]) == 0
        data = json.loads((output / "detections.json").read_text())
        found[output.name] = boxes(data["annotations"], category(data, "person"))
        assert (data["images"][0]["width"], "native" in name) in ((320, False), (640, True))
    assert len(found["native0"]) < 0.7 * len(found["small0"])
    overlaps = pairwise_iou(2 * found["small0"], found["native2"]) > 0.5
    assert overlaps.any(1).float().mean() > 0.85


@pytest.mark.parametrize(
    ("name", "default", "place", "prefix", "class_name", "recall", "precision"),
    [case for case in CASES if case[0] in WEIGHTS],
)
def test_objects_are_found_out_of_the_box(
    shared_data, tmp_path, capsys, name, default, place, prefix, class_name, recall, precision
):
    """Without a config most objects are found (IoU 0.3) and most boxes right."""
    truth = json.loads((shared_data / place / "instances_val.json").read_text())
    wanted = category(truth, class_name)
    objects = {
        image["id"]: [a for a in truth["annotations"] if a["image_id"] == image["id"]] for image in truth["images"]
    }
    images = [image for image in truth["images"] if image["file_name"].startswith(prefix)]
    images = [image for image in images if len(boxes(objects[image["id"]], wanted)) >= 3]
    images = images[:: max(1, len(images) // 10)][:10]
    files = [str(shared_data / place / "val" / image["file_name"]) for image in images]
    chosen = [] if default else ["--weights", name]
    assert main(["predict", *files, "--device", "cpu", "-o", str(tmp_path), *chosen]) == 0
    assert f"Detector: {name} (" in capsys.readouterr().out
    found = json.loads((tmp_path / "detections.json").read_text())
    ids = {image["file_name"].rsplit("/", 1)[-1]: image["id"] for image in found["images"]}
    real = predicted = hit = right = 0
    for image in images:
        mine = [a for a in found["annotations"] if a["image_id"] == ids[image["file_name"]]]
        overlaps = pairwise_iou(boxes(objects[image["id"]], wanted), boxes(mine, category(found, class_name))) > 0.3
        real, predicted = real + overlaps.shape[0], predicted + overlaps.shape[1]
        hit, right = hit + int(overlaps.any(1).sum()), right + int(overlaps.any(0).sum())
    assert hit / real > recall
    assert right / predicted > precision
