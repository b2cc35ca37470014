"""Converting some images and some classes of a dataset."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from d2tiny.data.coco.check import check_dataset
from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers.cli import run
from tests.helpers.native import convert, found, objects

SOURCES = {"a_1.png": "Port of A", "a_2.png": "port of A", "b_1.png": "Air base", "c_1.png": None}


@pytest.fixture
def tiles(tmp_path):
    """Four images of three sources, one without; a ship, a car and a person in each."""
    names = ("ship", "car", "person")
    data = {"images": [], "annotations": [], "categories": [{"id": i, "name": n} for i, n in enumerate(names, 1)]}
    for number, (file, source) in enumerate(SOURCES.items(), 1):
        Image.new("RGB", (64, 48)).save(tmp_path / file)
        image = {"id": number, "file_name": file, "width": 64, "height": 48, "downscale": number}
        data["images"].append(image | ({"source": source} if source else {}))
        for category in (1, 2, 3):
            box = [10 * category, 20, 8, 6]
            data["annotations"].append(
                {"id": len(data["annotations"]), "image_id": number, "category_id": category, "bbox": box, "area": 48}
            )
    (tmp_path / "tiles.json").write_text(json.dumps(data))
    return tmp_path / "tiles.json"


def files(result):
    return [image["file_name"] for image in result.data["images"]]


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ([("source", "Port*")], ["a_1.png"]),
        ([("source", "[Pp]ort*")], ["a_1.png", "a_2.png"]),
        ([("source", "Port*"), ("source", "Air base")], ["a_1.png", "b_1.png"]),
        ([("source", "*"), ("file_name", "?_1.png")], ["a_1.png", "b_1.png"]),
        ([("downscale", "4")], ["c_1.png"]),
    ],
)
def test_images_are_chosen_by_their_entries(tiles, where, chosen):
    result = convert("coco", tiles, where=where)
    assert files(result) == chosen
    assert len(objects(result)) == 3 * len(chosen)
    assert result.findings.kinds["images that were not chosen, left out"].count == 4 - len(chosen)
    assert [image.get("source") for image in result.data["images"]] == [SOURCES[name] for name in chosen]
    assert not check_dataset(result.data, result.root).findings.count("error")


def test_a_glob_that_no_image_fits_is_told_with_the_values_there_are(tiles):
    result = convert("coco", tiles, where=[("source", "Air*"), ("source", "port A")])
    assert files(result) == ["b_1.png"]
    (example,) = result.findings.kinds["globs of --where that no image fits"].examples
    assert example.startswith("source=port A. Values of 'source': 'Port of A' (1), 'port of A' (1), 'Air base' (1).")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ([("source", "KIT*")], r"no image fits source=KIT\*\. Values of 'source': 'Port of A' \(1\)"),
        ([("sorce", "Port*")], r"no image fits sorce=Port\*\. No image has the key 'sorce'\."),
        ([("source", "Port*"), ("file_name", "b*")], r"no image fits source=Port\*, file_name=b\*\."),
    ],
)
def test_nothing_chosen_is_an_error(tiles, where, message):
    with pytest.raises(DatasetError, match=message):
        convert("coco", tiles, where=where)


def test_dropped_classes_are_background(tiles):
    result = convert("coco", tiles, drop_classes=["person"])
    assert [category["name"] for category in result.data["categories"]] == ["ship", "car"]
    assert {o[1] for o in objects(result)} == {"ship", "car"}
    assert all("ignored_boxes" not in image for image in result.data["images"])
    assert found(result.findings) == {("note", "objects of dropped classes, left out"): 4}


def test_dropped_classes_go_by_their_new_names_and_must_exist(tiles):
    result = convert("coco", tiles, rename={"person": "people"}, drop_classes=["people", "sheep"])
    assert [category["name"] for category in result.data["categories"]] == ["ship", "car"]
    (example,) = result.findings.kinds["dropped classes that do not exist"].examples
    assert example == "'sheep'. Did you mean 'ship'?"


@pytest.mark.parametrize("other", [{"ignore_classes": ["car"]}, {"classes": ["ship", "car"]}])
def test_a_class_is_dropped_or_kept(tiles, other):
    with pytest.raises(ConfigError, match=r"drop_classes=\['car'\]: car cannot be kept or ignored as well"):
        convert("coco", tiles, drop_classes=["car"], **other)


def test_the_command(tiles, capsys):
    folder = tiles.parent
    line = (
        f"convert coco {tiles} --images {folder} --where 'source=Port*' --drop-classes person,car -o {folder}/new.json"
    )
    assert run(line) == 0
    assert "1 images, 1 objects of 1 classes" in capsys.readouterr().out
    assert run(f"check {tiles} --where source=x") == 2
    assert "--where goes with --format only" in capsys.readouterr().err
    assert run(f"convert coco {tiles} -o {folder}/none.json --where source") == 2
    assert run(f"convert coco {tiles} -o {folder}/none.json --where source=x") == 2
    assert not (folder / "none.json").exists()
