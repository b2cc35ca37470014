"""`d2tiny predict` with the weights that come with d2tiny, on real images; skipped where these are absent."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from d2tiny.cli import main
from d2tiny.ops.boxes import pairwise_iou
from d2tiny.utils.published import read_manifest, shipped_folder

pytestmark = [pytest.mark.real_data, pytest.mark.slow]
THERMAL = [weights for weights in read_manifest(shipped_folder()).weights if weights.measured.dataset == "hituav_val"]


def boxes(entries, category):
    found = np.array([a["bbox"] for a in entries if a["category_id"] == category and not a["iscrowd"]]).reshape(-1, 4)
    return torch.from_numpy(np.concatenate((found[:, :2], found[:, :2] + found[:, 2:]), axis=1)).float()


@pytest.mark.parametrize("weights", THERMAL, ids=lambda weights: weights.name)
def test_people_are_found_out_of_the_box(shared_data, weights, tmp_path, capsys):
    """In ten images, at the default score: most people are found, and most of what is found are people (IoU 0.3)."""
    folder = shared_data / "hituav"
    truth = json.loads((folder / "instances_val.json").read_text())
    person = next(category["id"] for category in truth["categories"] if category["name"] == "person")
    objects = {
        image["id"]: [a for a in truth["annotations"] if a["image_id"] == image["id"]] for image in truth["images"]
    }
    images = [image for image in truth["images"] if len(boxes(objects[image["id"]], person)) >= 3][::5][:10]
    files = [str(folder / "val" / image["file_name"]) for image in images]
    assert main(["predict", *files, "--weights", weights.name, "--device", "cpu", "-o", str(tmp_path)]) == 0
    assert f"Detector: {weights.name}" in capsys.readouterr().out
    found = json.loads((tmp_path / "detections.json").read_text())
    ids = {image["file_name"].rsplit("/", 1)[-1]: image["id"] for image in found["images"]}
    known = next(category["id"] for category in found["categories"] if category["name"] == "person")
    real = predicted = hit = right = 0
    for image in images:
        mine = [a for a in found["annotations"] if a["image_id"] == ids[image["file_name"]]]
        overlaps = pairwise_iou(boxes(objects[image["id"]], person), boxes(mine, known)) > 0.3
        real, predicted = real + overlaps.shape[0], predicted + overlaps.shape[1]
        hit, right = hit + int(overlaps.any(1).sum()), right + int(overlaps.any(0).sum())
    assert hit / real > 0.6
    assert right / predicted > 0.4
