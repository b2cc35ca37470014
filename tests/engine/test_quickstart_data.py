"""What the demo makes of the user's data: a json that is split, and validation images that are too many."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from d2tiny.engine.quickstart_data import VAL_PIXELS, prepare_data
from d2tiny.utils.errors import ConfigError, DatasetError


def labels(folder, *, images=11, side=32, grey=False):
    """A json with one object in each image, and the images."""
    (folder / "pictures").mkdir(parents=True)
    pixels = np.full((side, side, 3), 90, np.uint8)
    pixels[:, :, 0] = 90 if grey else 200
    content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "boat"}, {"id": 9, "name": "buoy"}]}
    for i in range(images):
        cv2.imwrite(str(folder / "pictures" / f"{i}.png"), pixels)
        content["images"].append({"id": 100 + i, "file_name": f"{i}.png", "height": side, "width": side})
        content["annotations"].append(
            {"id": i, "image_id": 100 + i, "category_id": 7, "bbox": [4, 4, 8, 8], "area": 64}
        )
    path = folder / "labels.json"
    path.write_text(json.dumps(content))
    return path


def images_of(path):
    return [image["file_name"] for image in json.loads(path.read_text())["images"]]


def test_every_fifth_image_of_a_json_is_for_validation(tmp_path):
    file = labels(tmp_path / "in")
    before = file.read_bytes()
    data = prepare_data(file, tmp_path / "in" / "pictures", tmp_path / "out", limited=False)
    parts = {split: images_of(json_file) for split, (json_file, _) in data.places.items()}
    assert parts["val"] == ["4.png", "9.png"]
    assert sorted(parts["train"] + parts["val"]) == sorted(images_of(file))
    assert all(len(record["annotations"]) == 1 for record in data.records)
    assert data.classes == ("boat", "buoy")
    assert (data.kind, data.note, data.pixels) == ("colour", "", 2 * 32 * 32)
    assert file.read_bytes() == before


def test_the_kind_of_grey_images_is_known(tmp_path):
    file = labels(tmp_path / "in", grey=True)
    assert prepare_data(file, tmp_path / "in" / "pictures", tmp_path / "out", limited=False).kind == "grey"


def test_two_images_are_enough_and_one_is_not(tmp_path):
    file = labels(tmp_path / "two", images=2)
    data = prepare_data(file, tmp_path / "two" / "pictures", tmp_path / "out", limited=True)
    assert [images_of(json_file) for json_file, _ in data.places.values()] == [["0.png"], ["1.png"]]
    with pytest.raises(DatasetError, match="has 1 images; one to train and one to validate is the least"):
        prepare_data(labels(tmp_path / "one", images=1), None, tmp_path / "out", limited=True)


def test_of_large_validation_images_a_part_is_looked_at(tmp_path):
    file = labels(tmp_path / "in", images=50, side=32)
    content = json.loads(file.read_text())
    side = int((VAL_PIXELS / 4) ** 0.5)
    for image in content["images"]:  # ten of them are for validation, as large as 2.5 times the limit
        image["height"] = image["width"] = side
    file.write_text(json.dumps(content))
    limited = prepare_data(file, tmp_path / "in" / "pictures", tmp_path / "out", limited=True)
    assert len(limited.records) == 4
    assert limited.note == "Of 10 validation images 4, evenly spread, are looked at, to be in time."
    assert len(prepare_data(file, tmp_path / "in" / "pictures", tmp_path / "all", limited=False).records) == 10


@pytest.mark.parametrize(
    "content", ["no json", "[]", '{"images": 3}', '{"images": [{}, {}]}', '{"images": [{"id": 1}]}']
)
def test_what_is_no_coco_json_is_told(tmp_path, content):
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(DatasetError, match=r"x.json: is no COCO json .*d2tiny check .*x.json.*d2tiny convert"):
        prepare_data(file, None, tmp_path / "out", limited=True)
    assert not (tmp_path / "out").exists()


def test_a_json_that_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match=r"--data .*x.json: cannot read it: No such file"):
        prepare_data(tmp_path / "x.json", None, tmp_path / "out", limited=True)


@pytest.mark.parametrize("data", [None, "."])
def test_images_without_a_json_are_refused(tmp_path, data):
    with pytest.raises(ConfigError, match="is the folder of the images of a json; name that with --data"):
        prepare_data(data and tmp_path, tmp_path, tmp_path / "out", limited=True)
