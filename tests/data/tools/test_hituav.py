"""HIT-UAV's own json and folders, converted whole and halved."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from d2tiny.cli import main
from d2tiny.data.coco.check import check_dataset
from d2tiny.data.datasets import HITUAV_CLASSES, load_coco_like
from d2tiny.data.datasets.register import find_source
from d2tiny.data.tools.converters import Scaling
from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers.hituav import CLASSES, write_hituav
from tests.helpers.native import convert, found, objects

ODD_KEYS = {("note", "keys that COCO names otherwise"): 3}


@pytest.fixture
def source(tmp_path):
    return write_hituav(tmp_path / "download" / "normal_json")


def test_boxes_by_hand(source):
    """Ids start at 0; a DontCare box is an ignored object of each of the four classes; its outline is left out."""
    result = convert("hituav", source, split="train")
    assert result.root == source / "train"
    first, second = "1_60_80_0_00663.jpg", "0_90_30_0_00001.jpg"
    assert objects(result) == [
        (first, "person", (105, 0, 13, 15), 195, 0),
        (first, "other-vehicle", (20, 30, 31, 40), 1240, 0),
        *((second, name, (40, 8, 12, 10), 120, 1) for name in HITUAV_CLASSES),
        (second, "car", (10, 11, 23, 12), 276, 0),
        (second, "bicycle", (60, 50, 7, 9), 63, 0),
    ]
    assert [c["name"] for c in result.data["categories"]] == list(HITUAV_CLASSES)
    assert result.data["images"][0] == {
        "id": 1, "file_name": first, "width": 160, "height": 128, "date_captured": "20201217"
    }  # fmt: skip
    assert all(a["ignore"] == a["iscrowd"] and "segmentation" not in a for a in result.data["annotations"])
    assert found(result.findings) == ODD_KEYS
    assert result.summary() == "2 images, 4 objects of 4 classes, 4 ignored objects and regions"


@pytest.mark.parametrize("folder", [".", "normal_json", "normal_json/annotations/val.json"])
def test_repository_folder_or_json(source, folder):
    place = source.parent / folder
    options = {} if place.is_file() else {"split": "val"}
    result = convert("hituav", place, **options)
    assert result.root == source / "val"
    assert [o[1:3] for o in objects(result)] == [("person", (2, 3, 5, 7))]


def test_the_layout_that_is_registered(source, tmp_path, monkeypatch, capsys):
    """`convert` with --scale 0.5 writes what ``hituav_train`` and ``hituav_val`` load."""
    root = tmp_path / "datasets"
    for split in ("train", "val"):
        words = ["convert", "hituav", source, "--split", split, "--scale", "0.5"]
        assert main([*map(str, words), "-o", str(root / "hituav" / f"instances_{split}.json")]) == 0
    assert "1 images, 1 objects of 4 classes" in capsys.readouterr().out
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    first, second = load_coco_like(find_source("hituav_train"))
    assert (first["width"], first["height"]) == (80, 64)
    assert [(a["bbox"], a["category_id"]) for a in first["annotations"]] == [
        ([52.5, 0, 6.5, 7.5], 0),
        ([10, 15, 15.5, 20], 3),
    ]
    assert [(a["bbox"], a["iscrowd"]) for a in second["annotations"][:4]] == [([20, 4, 6, 5], 1)] * 4
    with Image.open(first["file_name"]) as image:
        assert (image.mode, image.format, image.size) == ("L", "JPEG", (80, 64))
    data = json.loads((root / "hituav" / "instances_train.json").read_text())
    assert not check_dataset(data, root / "hituav" / "train", progress=False).findings.count("error")


@pytest.mark.parametrize(
    ("place", "options", "error", "message"),
    [
        (".", {}, ConfigError, r"choose one with --split \(there: train, val\)"),
        (".", {"split": "tset"}, DatasetError, r"No .*tset.json. Choose another with --split \(there: train, val\)"),
        ("train", {"split": "train"}, DatasetError, "No folder of labels"),
        ("annotations/train.json", {"split": "train"}, ConfigError, "leave --split train out"),
        ("annotations/train.json", {"images": "nowhere"}, DatasetError, "No folder of images"),
    ],
)
def test_what_is_missing_is_named(source, place, options, error, message):
    if "images" in options:
        options = {"images": source / options["images"]}
    with pytest.raises(error, match=message):
        convert("hituav", source / place, **options)


def test_images_elsewhere_and_classes_of_other_names(source):
    (source / "train").rename(source / "thermal")
    with pytest.raises(DatasetError, match=r"No folder of images.*train\). Name it with --images"):
        convert("hituav", source, split="train")
    path = source / "annotations" / "train.json"
    data = json.loads(path.read_text())
    data["categories"][1]["name"] = "Lorry"
    path.write_text(json.dumps(data))
    result = convert("hituav", source, split="train", images=source / "thermal")
    assert found(result.findings)[("error", "objects of unknown classes, left out")] == 1
    assert len(result.data["annotations"]) == 7


@pytest.mark.real_data
def test_genuine_labels_halved_are_the_benchmark(shared_data, tmp_path):
    """The boxes of six images, and their pixels up to what JPEG loses in both copies."""
    labels, images = shared_data / "native/hituav_json/train.json", shared_data / "native/voc/JPEGImages"
    scaling = Scaling(0.5, tmp_path, "train")
    result = convert("hituav", labels, images=images, scaling=scaling)
    whole = json.loads((shared_data / "hituav/instances_train.json").read_text())
    names = {i["id"]: i["file_name"] for i in whole["images"]}
    mine = {i["id"]: i["file_name"] for i in result.data["images"]}
    assert len(mine) == 6

    def boxes(data, names):
        wanted = set(mine.values())
        keys = ("category_id", "bbox", "area", "iscrowd", "ignore")
        listed = ((names[a["image_id"]], *(a[k] for k in keys)) for a in data["annotations"])
        return sorted(map(repr, (entry for entry in listed if entry[0] in wanted)))

    assert boxes(result.data, mine) == boxes(whole, names)
    assert whole["categories"] == result.data["categories"]
    for name in mine.values():
        ours, theirs = (
            cv2.imread(str(f / name), -1).astype(int) for f in (tmp_path / "train", shared_data / "hituav/train")
        )
        assert ours.shape == theirs.shape == (256, 320)
        assert np.abs(ours - theirs).mean() < 3


def test_class_names_are_the_registered_ones():
    assert [c.lower().replace("othervehicle", "other-vehicle") for c in CLASSES[:4]] == list(HITUAV_CLASSES)
