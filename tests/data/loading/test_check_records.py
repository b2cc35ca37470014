"""Dataset dicts of a user's own function: what trains is loaded, the rest is refused with what is allowed."""

from __future__ import annotations

import logging
import math

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from d2tiny.data import build_train_loader, load_datasets
from d2tiny.data.loading.headers import check_images
from d2tiny.utils.errors import DatasetError


def annotation(**more):
    return {"bbox": [2, 3, 8, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, **more}


@pytest.fixture
def load(tmp_path):
    """Register the records that are given, and load them."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 30, 3), np.uint8))
    names = []

    def run(annotations=None, classes=("a", "b"), record=None, records=None):
        name = f"own_{tmp_path.name}_{len(names)}"
        names.append(name)
        one = {"file_name": str(tmp_path / "a.png"), "image_id": 0, "height": 20, "width": 30}
        one |= {"annotations": [annotation()] if annotations is None else annotations, **(record or {})}
        DatasetCatalog.register(name, lambda: [one] if records is None else records)
        if classes is not None:
            MetadataCatalog.get(name).thing_classes = list(classes)
        return load_datasets(name)

    yield run
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    "good",
    [
        {},
        {"category_id": np.int64(0)},
        {"bbox": np.array([2, 3, 8, 9], np.float32)},
        {"bbox": (2, 3, 8, 9), "bbox_mode": BoxMode.XYWH_ABS, "iscrowd": 0},
        {"bbox_mode": 0, "iscrowd": False, "segmentation": []},
    ],
)
def test_what_the_tutorial_shows_is_loaded(load, good):
    assert len(load([annotation(**good)])[0]["annotations"]) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"category_id": 2}, "1 category ids that are no index of the 2 thing_classes .*annotation 0: 2"),
        ({"category_id": -1}, "category ids"),
        ({"category_id": "1"}, "category ids"),
        ({"category_id": 1.0}, "category ids"),
        ({"category_id": None}, "category ids"),
        ({"bbox": [math.nan, 3, 8, 9]}, "boxes with NaN or infinity"),
        ({"bbox": [2, 3, 8]}, "boxes that are not four numbers"),
        ({"bbox": "1234"}, "boxes that are not four numbers"),
        ({"bbox": ["1", 2, 3, 4]}, "boxes that are not four numbers"),
        ({"bbox": None}, "boxes that are not four numbers"),
        ({"bbox_mode": None}, "bbox_mode is missing or none of XYXY_ABS, XYWH_ABS"),
        ({"bbox_mode": BoxMode.XYWHA_ABS}, "bbox_mode"),
        ({"bbox_mode": "xyxy"}, "bbox_mode"),
        ({"iscrowd": "0"}, "iscrowd that is neither 0 nor 1"),
    ],
)
def test_annotations_that_cannot_be_learned(load, bad, message):
    with pytest.raises(DatasetError, match=message) as raised:
        load([annotation(), annotation(**bad)][::-1])
    assert "category_id (from 0 to 1" in str(raised.value)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"file_name": None}, "records without a file_name"),
        ({"height": None}, "records without a height"),
        ({"width": "30"}, "records without a width"),
        ({"annotations": 5}, "annotations are no list"),
        ({"annotations": [None]}, "annotations that are no dicts"),
    ],
)
def test_records_that_cannot_be_used(load, bad, message):
    with pytest.raises(DatasetError, match=message):
        load(record=bad)


@pytest.mark.parametrize("records", [None, "x", {"a": 1}])
def test_functions_that_return_no_list(load, records):
    with pytest.raises(DatasetError, match=r"must return a list|no dicts"):
        load(records=[records] if records is None else records)


@pytest.mark.parametrize("classes", [None, ()])
def test_class_names_are_needed(load, classes):
    with pytest.raises(DatasetError, match=r"has no class names. .*thing_classes = \["):
        load(classes=classes)


def test_unknown_names_are_refused():
    with pytest.raises(DatasetError, match=r"Unknown dataset 'aerial_trian'\. Did you mean 'aerial_train'"):
        load_datasets("aerial_trian")


def test_boxes_without_area_are_left_out_and_counted(load, caplog):
    given = [annotation(), annotation(bbox=[8, 3, 2, 9]), annotation(bbox=[1, 1, 0, 5], bbox_mode=BoxMode.XYWH_ABS)]
    with caplog.at_level(logging.WARNING):
        (record,) = load(given)
    assert record["annotations"] == given[:1]
    assert len(given) == 3
    assert "2 boxes without area, left out" in caplog.text


@pytest.mark.parametrize("annotations", [[], [annotation(iscrowd=1)]])
def test_a_training_set_without_objects_is_refused(load, annotations):
    records = load(annotations)
    with pytest.raises(DatasetError, match=f"No object to learn: 1 images for training, {len(annotations)} ignored"):
        build_train_loader(dataset=records, mapper=lambda r: r, total_batch_size=1)


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (["b.png", "c.png"], r"None of them is there: is .* the folder of the images\?"),
        (["a.png", "b.png"], r"1 of 2 images of 'mine' .*\n.*b.png: missing\nRestore these files or take them out"),
    ],
)
def test_images_of_another_folder_are_asked_about(tmp_path, names, advice):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(DatasetError, match=advice):
        check_images([{"file_name": str(tmp_path / name), "width": 30, "height": 20} for name in names], "mine")
