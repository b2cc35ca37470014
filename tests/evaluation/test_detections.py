from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from d2tiny.data.coco.arrays import ground_truth_from_dict, load_ground_truth
from d2tiny.evaluation import detections as module
from d2tiny.evaluation.detections import detections_from_dicts, load_detections, write_detections
from d2tiny.evaluation.engine import evaluate_arrays
from d2tiny.evaluation.protocols import get_protocol
from d2tiny.utils.errors import DatasetError
from tests.helpers.coco import random_dataset


@pytest.fixture
def data():
    truth, found = random_dataset(np.random.default_rng(1))
    return ground_truth_from_dict(truth), found


def same(a, b):
    return all((getattr(a, name) == getattr(b, name)).all() for name in ("image", "category", "boxes", "scores"))


@pytest.mark.parametrize("style", [{}, {"indent": 2}, {"separators": (",", ":")}])
@pytest.mark.parametrize("block", [64, 1000, 8 << 20])
def test_files_of_any_layout_are_read_in_pieces(data, tmp_path, monkeypatch, style, block):
    """Other keys are skipped: nested objects and texts that look like borders do no harm."""
    truth, found = data
    odd = [{**d, "segmentation": {"counts": "},{", "size": [1, 2]}, "area": 3.0} for d in found]
    (tmp_path / "p.json").write_text(json.dumps(odd, **style))
    monkeypatch.setattr(module, "_BLOCK", block)
    assert same(load_detections(tmp_path / "p.json", truth), detections_from_dicts(truth, found))


def test_written_detections_are_read_back_exactly(data, tmp_path):
    truth, found = data
    arrays = detections_from_dicts(truth, found)
    write_detections(tmp_path / "p.json", truth, arrays)
    assert same(load_detections(tmp_path / "p.json", truth), arrays)
    assert json.loads((tmp_path / "p.json").read_text())[0].keys() == {"image_id", "category_id", "bbox", "score"}
    write_detections(tmp_path / "none.json", truth, arrays.select(np.zeros(len(arrays), bool)))
    assert len(load_detections(tmp_path / "none.json", truth)) == 0


def test_a_file_with_names_is_matched_by_names(tmp_path):
    """What tools/demo.py writes: own ids, scores in annotations."""
    truth = ground_truth_from_dict(
        {
            "images": [{"id": 5, "file_name": "val/b.png"}, {"id": 9, "file_name": "val/a.png"}],
            "categories": [{"id": 3, "name": "ship "}, {"id": 7, "name": "car"}],
            "annotations": [],
        }
    )
    data = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}],
    }
    (tmp_path / "p.json").write_text(json.dumps(data))
    found = load_detections(tmp_path / "p.json", truth)
    assert (found.image.tolist(), found.category.tolist()) == ([1], [1])
    data["images"][0]["file_name"] = "c.png"
    (tmp_path / "p.json").write_text(json.dumps(data))
    with pytest.raises(DatasetError, match="detection 0 is not in the ground truth"):
        load_detections(tmp_path / "p.json", truth)


def test_text_image_ids(tmp_path):
    gt = {
        "images": [{"id": "x1", "file_name": "a"}, {"id": "x0", "file_name": "b"}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"image_id": "x0", "category_id": 1, "bbox": [1, 1, 2, 2]}],
    }
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    truth = load_ground_truth(tmp_path / "gt.json")
    (tmp_path / "p.json").write_text(
        json.dumps([{"image_id": "x0", "category_id": 1, "bbox": [1, 1, 2, 2], "score": 1}])
    )
    assert load_detections(tmp_path / "p.json", truth).image.tolist() == truth.image.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"image_id": 1, "category_id": 10, "bbox": [1, 2, 3], "score": 1}]', r"detection 0 .*bbox"),
        ('[{"image_id": 1, "category_id": 10, "bbox": [1, 2, 3, "x"], "score": 1}]', r"detection 0 .*bbox\[3\]"),
        ('[{"image_id": 1, "category_id": 10, "bbox": [1, 2, 3, 4]}]', r"detection 0 .*score"),
        ('[{"image_id": 1, "category_id": 10, "bbox": [1, 2, 3, NaN], "score": 1}]', "1 detections have NaN"),
        ('[{"image_id": 77, "category_id": 10, "bbox": [1, 2, 3, 4], "score": 1}]', "77.*another split"),
        ('[{"image_id": 1, "category_id": 77, "bbox": [1, 2, 3, 4], "score": 1}]', "category ids.*77"),
        ('[{"image_id": 1, "category_id"', "not a valid json.*line 1"),
        ('{"x": 1}', "expected a list"),
        ("", "not a valid json"),
    ],
)
def test_bad_files_say_where_and_what(data, tmp_path, text, message):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(DatasetError, match=message) as err:
        load_detections(tmp_path / "p.json", data[0])
    assert str(tmp_path / "p.json") in str(err.value)


def test_a_missing_file_is_named(data, tmp_path):
    with pytest.raises(DatasetError, match=r"p\.json: no such file"):
        load_detections(tmp_path / "p.json", data[0])


def test_reading_takes_little_more_memory_than_the_arrays(tmp_path, monkeypatch):
    """100,000 detections of 48 bytes; as Python dicts they take about 60 MB."""
    truth = ground_truth_from_dict({"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": []})
    entry = json.dumps({"image_id": 1, "category_id": 1, "bbox": [1.25, 2.5, 3.125, 4.0], "score": 0.123456789})
    (tmp_path / "p.json").write_text("[" + ",".join([entry] * 100_000) + "]")
    monkeypatch.setattr(module, "_BLOCK", 1 << 18)
    tracemalloc.start()
    found = load_detections(tmp_path / "p.json", truth)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 100_000
    assert peak < 20e6


def test_images_of_one_name_in_two_folders_are_kept_apart(tmp_path):
    names = ["a/1.png", "b/1.png"]
    truth = ground_truth_from_dict(
        {
            "images": [{"id": i, "file_name": n} for i, n in enumerate(names)],
            "categories": [{"id": 1, "name": "x"}],
            "annotations": [],
        }
    )

    def load(file_names):
        data = {
            "images": [{"id": i, "file_name": n} for i, n in enumerate(file_names)],
            "categories": [{"id": 5, "name": "x"}],
            "annotations": [
                {"image_id": i, "category_id": 5, "bbox": [0, 0, 1, 1], "score": 1} for i in range(len(file_names))
            ],
        }
        (tmp_path / "p.json").write_text(json.dumps(data))
        return load_detections(tmp_path / "p.json", truth).image.tolist()

    assert load(["/data/b/1.png", "/data/a/1.png"]) == [1, 0]
    with pytest.raises(DatasetError, match=r"may be a/1\.png or b/1\.png"):
        load(["1.png"])


def test_ids_written_as_floats_are_numbers(tmp_path, data):
    truth, _ = data
    (tmp_path / "p.json").write_text('[{"image_id": 1.0, "category_id": 10, "bbox": [1, 2, 3, 4], "score": 1}]')
    assert load_detections(tmp_path / "p.json", truth).image.tolist() == [1]
    (tmp_path / "p.json").write_text('[{"image_id": 1.5, "category_id": 10, "bbox": [1, 2, 3, 4], "score": 1}]')
    with pytest.raises(DatasetError, match=r"detection 0.*image_id"):
        load_detections(tmp_path / "p.json", truth)


@pytest.mark.parametrize(
    "change",
    [
        {"images": [{"id": 1, "ignored_regions": None}]},
        {"images": [{"id": 1, "ignored_regions": [[1, 2, 3], [None, 1, 2, 3]], "width": 100.0}]},
        {"images": [{"id": 1}, "text"]},
        {"annotations": [None, {"image_id": [1], "category_id": 1, "bbox": [1, 2, 3, 4]}]},
        {"annotations": [{"image_id": 1, "category_id": {}, "bbox": [1, 2, 3, 4]}]},
    ],
)
def test_broken_entries_of_the_ground_truth_are_left_out(tmp_path, change):
    data = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": [], **change}
    (tmp_path / "gt.json").write_text(json.dumps(data))
    truth = load_ground_truth(tmp_path / "gt.json")
    assert len(truth.image_ids) == 1
    assert len(truth.regions) == len(truth) == 0
    if "width" in data["images"][0]:
        assert truth.sizes.tolist() == [[100, 0]]


def test_ids_that_are_lists_or_too_large_are_refused(tmp_path):
    for images in ([{"id": [1]}], [{"id": 2**70}]):
        data = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": []}
        (tmp_path / "gt.json").write_text(json.dumps(data))
        with pytest.raises(DatasetError, match=r"gt\.json"):
            load_ground_truth(tmp_path / "gt.json")


# --- whose image ids are written otherwise than in the ground truth ---------------------------------------------------


def named_truth(tmp_path, images):
    """A ground truth of images by id and file name, with one object each of 8×8 px at y = 5."""
    data = {
        "images": [{"id": i, "file_name": name, "width": 64, "height": 48} for i, name in images],
        "categories": [{"id": 1, "name": "vehicle"}],
        "annotations": [{"image_id": i, "category_id": 1, "bbox": [5 + k, 5, 8, 8]} for k, (i, _) in enumerate(images)],
    }
    (tmp_path / "gt.json").write_text(json.dumps(data))
    return load_ground_truth(tmp_path / "gt.json")


def predict(tmp_path, truth, ids, **changes):
    """Return the metrics of perfect boxes under these image ids."""
    entries = [
        {"image_id": i, "category_id": 1, "bbox": [5 + k, 5, 8, 8], "score": 0.9, **changes} for k, i in enumerate(ids)
    ]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    return evaluate_arrays(truth, load_detections(tmp_path / "p.json", truth), get_protocol("coco")).metrics()["AP"]


@pytest.mark.parametrize(
    ("images", "ids"),
    [
        ([(1, "a.png"), (2, "b.png")], ["1", 2.0]),
        ([("1", "a.png"), ("2", "b.png")], [1, 2]),
        ([("0001", "a.png"), ("0002", "b.png")], [1, "2"]),
        ([(1, "0_2.png"), (2, "0_1.png")], ["0_2", "0_1"]),  # int("0_1") is 1
        ([("img_a", "img_a.png"), ("0001", "0001.png")], ["img_a", 1]),
        ([("img_a", "x.png"), ("0001", "y.png")], ["img_a", 1]),
        ([("1_23", "a.png"), ("12_3", "b.png")], ["1_23", "12_3"]),
        ([(1, "a.png"), (2, "b.png")], ["a", "b"]),
        ([(1, "a.png"), (2, "b.png")], ["a.png", "b.png"]),
        ([(1, "p/a.png"), (2, "q/a.png")], ["p/a", "/data/q/a.png"]),
        ([(7, "a.png"), (8, "0012.png")], ["a", 12]),
        ([(7, "9" * 25 + ".png"), (8, "b.png")], ["9" * 25, "b"]),
        ([("x1", "b.png"), ("x2", "a.png")], ["b", "a"]),
    ],
)
def test_perfect_boxes_are_perfect_under_every_id_that_has_a_meaning(tmp_path, images, ids):
    truth = named_truth(tmp_path, images)
    assert predict(tmp_path, truth, ids) == pytest.approx(100)
    write_detections(tmp_path / "again.json", truth, load_detections(tmp_path / "p.json", truth))
    assert same(load_detections(tmp_path / "again.json", truth), load_detections(tmp_path / "p.json", truth))


@pytest.mark.parametrize(
    ("images", "ids", "message"),
    [
        ([("img_a", "x.png"), ("img_b", "y.png")], [1, 2], r"2 of 2 image ids .*first: 1\)"),  # positions are no ids
        ([(1, "a.png"), (2, "b.png")], ["a", "c"], r"2 of 2 .*neither as ids nor as file names"),
        ([(1, "p/a.png"), (2, "q/a.png")], ["a", "a"], "'a' may be p/a.png or q/a.png"),
        ([(1, "a.png"), (2, "b.png")], [1, 3], r"1 of 2 .*first: 3\)"),
        ([(1, "a.png"), (2, "b.png")], [True, 2], "detection 0 cannot be used.*image_id"),
        ([(1, "a.png"), (2, "b.png")], [2**70, 2], "image ids"),
    ],
)
def test_ids_without_a_meaning_are_refused(tmp_path, images, ids, message):
    truth = named_truth(tmp_path, images)
    with pytest.raises(DatasetError, match=message) as raised:
        predict(tmp_path, truth, ids)
    assert "p.json" in str(raised.value)


@pytest.mark.parametrize(
    ("images", "ids", "said"),
    [
        ([(1, "2.png"), (2, "1.png")], [1, 2], True),  # ids of the truth, and names of other images
        ([(1, "0001.png"), (2, "0002.png")], [1, 2], False),
        ([(1, "2.png"), (2, "b.png")], [1, 2], False),
        ([(1, "a.png"), (2, "b.png")], [1, 2], False),
    ],
)
def test_ids_that_also_name_other_images_are_told(tmp_path, caplog, images, ids, said):
    assert predict(tmp_path, named_truth(tmp_path, images), ids) == pytest.approx(100)
    assert ("also names of other images" in caplog.text) == said


def test_unknown_categories_are_told_with_the_known_ones(tmp_path):
    with pytest.raises(DatasetError, match=r"1 of 1 category ids .*\(first: 0\)\. It has 1\."):
        predict(tmp_path, named_truth(tmp_path, [(1, "a.png")]), [1], category_id=0)


def test_other_values_of_detections(tmp_path):
    truth = named_truth(tmp_path, [(1, "a.png")])
    for changes in ({"category_id": "1"}, {"category_id": "vehicle"}, {"category_id": 1.0}, {"score": "0.9"}):
        assert predict(tmp_path, truth, [1], **changes) == pytest.approx(100)
    assert predict(tmp_path, truth, [1], bbox={"0": 5, "1": 5, "2": 8, "3": 8}) == pytest.approx(100)
    for changes, message in (
        ({"category_id": "1_0"}, "category_id"),
        ({"category_id": 2**70}, "category_id"),
        ({"score": "high"}, "score"),
        ({"score": True}, "score"),
        ({"bbox": "5588"}, "bbox"),
        ({"bbox": {"x": 5, "y": 5, "w": 8, "h": 8}}, "bbox"),
        ({"bbox": [1e300, 1, 2, 1e300]}, "NaN or infinity"),
    ):
        with pytest.raises(DatasetError, match=rf"p\.json: .*{message}"):
            predict(tmp_path, truth, [1], **changes)


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"image_id": ' + "9" * 5000 + "}]", '[{"x": "\\ud800"}]'])
def test_files_that_no_tool_can_use(tmp_path, text):
    truth = named_truth(tmp_path, [(1, "a.png")])
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(DatasetError, match=r"p\.json"):
        load_detections(tmp_path / "p.json", truth)
