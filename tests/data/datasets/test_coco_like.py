from __future__ import annotations

import json
import logging

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2tiny.data.datasets import AITOD_CLASSES, DatasetSource, load_coco_like, register_coco_like
from d2tiny.data.datasets.register import find_source
from d2tiny.utils.errors import DatasetError


def dataset(tmp_path, annotations, categories=None, images=None):
    """A json as real files have it, in tmp_path, and its source."""
    data = {
        "images": images or [{"id": 0, "file_name": "a.png", "width": 100, "height": 80}],
        "categories": categories or [{"id": 4, "name": "ship "}, {"id": 11, "name": "car"}],
        "annotations": annotations,
    }
    (tmp_path / "x.json").write_text(json.dumps(data))
    (tmp_path / "images").mkdir(exist_ok=True)
    return DatasetSource(f"t_{tmp_path.name}", (str(tmp_path / "x.json"),), (str(tmp_path / "images"),))


def box(bbox, **more):
    return {"id": 0, "image_id": 0, "category_id": 4, "bbox": bbox, "area": 1, "iscrowd": 0, **more}


def test_survives_what_real_files_hold(tmp_path, caplog):
    """Ids from 0 and repeated, ignore flags, clipped, empty, outside, NaN, strange categories and images."""
    source = dataset(
        tmp_path,
        [
            box([1, 2, 3, 4]),
            box([5, 5, 4, 4], ignore=1),
            box([5, 5, 4, 4], iscrowd=1),
            box([90, 70, 20, 20], category_id=11),  # clipped to 10×10
            box([5, 5, 0, 4]),
            box([5, 5, -3, 4]),
            box([200, 5, 3, 4]),
            box([float("nan"), 5, 3, 4]),
            box(None),
            box([1, 2, 3]),
            box([1, 2, 3, 4], category_id=99),
            box([1, 2, 3, 4], image_id=77),
        ],
    )
    with caplog.at_level(logging.WARNING, "d2tiny"):
        (record,) = load_coco_like(source)
    kept = [(a["bbox"], a["category_id"], a["iscrowd"]) for a in record["annotations"]]
    assert kept == [
        ([1, 2, 3, 4], 0, 0),
        ([5, 5, 4, 4], 0, 1),
        ([5, 5, 4, 4], 0, 1),
        ([90, 70, 10, 10], 1, 0),
    ]
    message = caplog.text
    for part in (
        "2 boxes without area",
        "1 boxes outside their image",
        "1 boxes with NaN",
        "2 boxes that are not four numbers",
        "1 annotations of an unknown category",
        "1 annotations of an unknown image",
        "1 boxes clipped",
        "x.json",
    ):
        assert part in message
    metadata = MetadataCatalog.get(source.name)
    assert metadata.thing_classes == ["ship", "car"]
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 0, 11: 1}


def test_text_ids_and_numbers_as_text(tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in ("P0001", "P0002")]
    annotations = [box(["1", "2", "3", "4"], image_id="P0002", category_id="4")]
    categories = [{"id": "4", "name": "ship"}]
    first, second = load_coco_like(dataset(tmp_path, annotations, categories, images))
    assert (first["image_id"], second["image_id"]) == (1, 2)
    assert second["annotations"][0]["bbox"] == [1, 2, 3, 4]


def test_ids_with_leading_zeros(tmp_path):
    images = [{"id": "0012", "file_name": "a.png", "width": 100, "height": 80}]
    (record,) = load_coco_like(dataset(tmp_path, [box([1, 2, 3, 4], image_id="0012")], images=images))
    assert record["image_id"] == 12
    assert len(record["annotations"]) == 1


def test_mixed_and_repeated_image_ids(tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in ("P1", 5)]
    first, second = load_coco_like(dataset(tmp_path, [box([1, 2, 3, 4], image_id=5)], images=images))
    assert (first["image_id"], second["image_id"], len(second["annotations"])) == (1, 2, 1)
    for twice in (("P1", "P1"), (5, 5), (5, "5")):
        images = [{"id": i, "file_name": "a.png", "width": 100, "height": 80} for i in twice]
        with pytest.raises(DatasetError, match="occurs twice"):
            load_coco_like(dataset(tmp_path, [], images=images))


def test_losing_every_annotation_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="no annotation could be used: 1 annotations of an unknown image"):
        load_coco_like(dataset(tmp_path, [box([1, 2, 3, 4], image_id=5)]))


def test_images_without_annotations_are_kept(tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "width": 9, "height": 9} for i in range(3)]
    records = load_coco_like(dataset(tmp_path, [], images=images))
    assert [r["annotations"] for r in records] == [[], [], []]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:-30], "not a valid json"),
        (lambda t: "[]", "expected a COCO object"),
        (lambda t: t.replace("categories", "cats"), "'categories' is missing"),
        (lambda t: t.replace("a.png", "../../etc/a.png"), "leaves the image folder"),
        (lambda t: t.replace('"width": 100, ', ""), "no 'width'"),
        (lambda t: t.replace('"id": 11', '"id": 4'), "share an id"),
    ],
)
def test_unusable_files_are_named(tmp_path, change, message):
    source = dataset(tmp_path, [box([1, 2, 3, 4])])
    path = tmp_path / "x.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(DatasetError, match=message) as error:
        load_coco_like(source)
    assert "x.json" in str(error.value)


def test_missing_files_say_where_they_were_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError, match=r"\$DETECTRON2_DATASETS/aitod/annotations/aitod_train_v1.json") as error:
        DatasetCatalog.get("aitod_train")
    assert str(tmp_path) in str(error.value)
    assert "datasets/README.md" in str(error.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("aitod_train", "aitod/annotations/aitod_training_v1.0.json"),
        ("aitod_trainval", "aitod/annotations/small_trainval_v1_1.0.json"),
        *(
            (f"aitod_{split}", f"aitod/annotations/aitod_{split}.json")
            for split in ("train", "val", "trainval", "test")
        ),
        ("aitod_test", "aitod/annotations/aitod_test_v1.json"),
        ("aitodv2_val", "aitodv2/annotations/small_val_v2_1.0.json"),
        ("aitodv2_trainval", "aitod/annotations/aitodv2_trainval.json"),
    ],
)
def test_known_json_names_and_layouts(tmp_path, monkeypatch, name, file):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    categories = [{"id": i, "name": n} for i, n in enumerate(AITOD_CLASSES, start=1)]
    images = [{"id": 5, "file_name": "a.png", "width": 9, "height": 9}]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": []}))
    # trainval images may lie in train/ and val/
    split = name.split("_")[1]
    folder = tmp_path / file.split("/")[0] / "images" / ("val" if split == "trainval" else split)
    folder.mkdir(parents=True)
    if split == "trainval":
        (folder.parent / "train").mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros((9, 9, 3), np.uint8))
    (record,) = DatasetCatalog.get(name)
    assert record["file_name"] == str(folder / "a.png")
    assert tuple(MetadataCatalog.get(name).thing_classes) == AITOD_CLASSES


def test_aitod_classes_go_by_name_not_by_id(tmp_path):
    source = dataset(tmp_path, [box([1, 2, 3, 4], category_id=0)], categories=[{"id": 0, "name": " person"}])
    source = DatasetSource("by_name", source.jsons, source.images, AITOD_CLASSES)
    (record,) = load_coco_like(source)
    assert record["annotations"][0]["category_id"] == AITOD_CLASSES.index("person")
    strange = dataset(tmp_path, [], categories=[{"id": 0, "name": "zeppelin"}])
    with pytest.raises(DatasetError, match="zeppelin"):
        load_coco_like(DatasetSource("by_name", strange.jsons, strange.images, AITOD_CLASSES))


def test_registration(tmp_path):
    source = dataset(tmp_path, [box([1, 2, 3, 4])])
    args = (f"own_{tmp_path.name}", source.jsons[0], source.images[0])
    register_coco_like(*args)
    register_coco_like(*args)  # again: fine
    with pytest.raises(DatasetError, match="registered already"):
        register_coco_like(args[0], tmp_path / "y.json", source.images[0])
    assert len(DatasetCatalog.get(args[0])) == 1
    assert find_source(args[0]).json_file() == tmp_path / "x.json"


def test_real_tiles(shared_data, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_data))
    records = DatasetCatalog.get("aerial_val")
    assert len(records) == 89
    assert sum(not a["iscrowd"] for r in records for a in r["annotations"]) == 1602
    assert sum(a["iscrowd"] for r in records for a in r["annotations"]) == 34
