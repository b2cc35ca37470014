from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from d2tiny.data.datasets import register_coco_like
from d2tiny.evaluation import Protocol, TinyCOCOEvaluator, evaluate_detections, format_table, get_protocol
from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers.coco import hit, one_object, pycoco, random_dataset


@pytest.mark.parametrize("seed", range(12))
def test_equals_pycocotools(seed):
    rng = np.random.default_rng(seed)
    truth, found = random_dataset(rng)
    protocol = get_protocol("aitod" if seed % 2 else "coco")
    if seed % 3 == 0:
        protocol = protocol.with_max_dets((1, 3, 7))
    ours, theirs = evaluate_detections(truth, found, protocol), pycoco(truth, found, protocol)
    assert set(theirs) <= set(ours)
    np.testing.assert_allclose([ours[k] for k in theirs], list(theirs.values()), rtol=0, atol=1e-12)


def test_ground_truth_with_id_0_counts():
    assert evaluate_detections(one_object(), [hit()])["AP"] == pytest.approx(100)


def test_an_object_of_exactly_64_px2_is_very_tiny_and_tiny():
    result = evaluate_detections(one_object(), [hit()])
    assert result["APvt"] == result["APt"] == pytest.approx(100)
    assert np.isnan(result["APs"])
    assert np.isnan(result["APm"])


def test_half_right_by_hand():
    """IoU of [10,10,8,8] and [10,10,8,5] is 40/64 = 0.625: right at .50, .55, .60 only, so AP = 30 %."""
    result = evaluate_detections(one_object(), [hit((10.0, 10, 8, 5))])
    assert result["AP"] == pytest.approx(30)
    assert result["AP50"] == pytest.approx(100)
    assert result["AP75"] == 0


def test_no_detections_give_zeros():
    result = evaluate_detections(one_object(), [])
    assert result["AP"] == result["AP50"] == result["APvt"] == result["AR@1500"] == 0
    assert np.isnan(result["APm"])


def test_inputs_unchanged():
    truth, found = random_dataset(np.random.default_rng(0))
    before = copy.deepcopy((truth, found))
    evaluate_detections(truth, found)
    assert (truth, found) == before


def test_3000_detections_of_an_image_are_evaluated():
    """3,000 objects in one image, all found: each limit lets exactly its share count."""
    truth = one_object()
    truth["annotations"] = [
        {"id": i, "image_id": 0, "category_id": 1, "bbox": [10.0 * (i % 60), 10.0 * (i // 60), 6, 6], "area": 36.0}
        for i in range(3000)
    ]
    found = [hit(a["bbox"], 1 - a["id"] / 4000) for a in truth["annotations"]]
    result = evaluate_detections(truth, found, get_protocol("aitod").with_max_dets((1, 100, 1500, 3000)))
    assert result["AR@1500"] == pytest.approx(50)
    assert result["AR@3000"] == pytest.approx(100)
    assert result["AP"] == pytest.approx(100)
    # the protocol's own limit: recall ends at one half, so 51 of 101 recall points
    assert evaluate_detections(truth, found)["AP"] == pytest.approx(51 / 101 * 100)


def test_image_subset():
    truth, found = random_dataset(np.random.default_rng(3))
    part = {**truth, "annotations": [a for a in truth["annotations"] if a["image_id"] < 2]}
    part["images"] = truth["images"][:2]
    expected = evaluate_detections(part, [d for d in found if d["image_id"] < 2])
    assert evaluate_detections(truth, found, img_ids=[0, 1]) == pytest.approx(expected, nan_ok=True)


def test_protocols():
    with pytest.raises(ConfigError, match="Did you mean 'aitod'"):
        get_protocol("ai-tod")
    with pytest.raises(ConfigError, match="rising"):
        get_protocol("aitod").with_max_dets((100, 1))
    own = Protocol("own", {"x": (0.0, 100.0)}, (10,))
    assert evaluate_detections(one_object(), [hit()], own)["APx"] == pytest.approx(100)


def test_table():
    text = format_table(
        {"AP": 12.345, "APvt": float("nan"), "AP-ship": 1.0, "AP-car": 2.0, "AP50-ship": 3.45, "AP50-car": 4.0}
    )
    assert "12.3" in text
    assert "ship" in text
    assert " - " in text
    assert "|  ship   | 1.0  |  3.5   |" in text  # of a class: in its row, not among the metrics


def instances(boxes, classes):
    result = Instances((96, 128))
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.scores = torch.linspace(0.9, 0.5, len(classes))
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return {"instances": result}


def perfect(evaluator, records):
    evaluator.reset()
    for record in records:
        boxes = np.array([a["bbox"] for a in record["annotations"]], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        evaluator.process([record], [instances(boxes.tolist(), [a["category_id"] for a in record["annotations"]])])


def test_evaluator(datasets, tmp_path):
    evaluator = TinyCOCOEvaluator("aerial_val", output_dir=tmp_path)
    records = DatasetCatalog.get("aerial_val")
    perfect(evaluator, records)
    first = evaluator.evaluate()["bbox"]
    assert first["AP"] == pytest.approx(100)
    assert evaluator.evaluate()["bbox"] == pytest.approx(first, nan_ok=True)  # twice, the same
    saved = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert {d["category_id"] for d in saved} <= set(range(1, 9))  # the json's ids


def test_evaluator_without_detections(datasets, tmp_path):
    evaluator = TinyCOCOEvaluator("aerial_val", output_dir=tmp_path)
    evaluator.reset()
    for record in DatasetCatalog.get("aerial_val"):
        evaluator.process([record], [instances([], [])])
    assert evaluator.evaluate()["bbox"]["AP"] == 0


def test_evaluator_of_a_model_with_too_many_classes(datasets):
    evaluator = TinyCOCOEvaluator("aerial_val")
    evaluator.reset()
    evaluator.process([DatasetCatalog.get("aerial_val")[0]], [instances([[0, 0, 5, 5]], [42])])
    with pytest.raises(DatasetError, match="num_classes=8"):
        evaluator.evaluate()


def test_evaluator_maps_categories_that_are_not_contiguous(tmp_path):
    truth = {
        "images": [{"id": 7, "file_name": "a.png", "width": 50, "height": 50}],
        "categories": [{"id": 40, "name": "b"}, {"id": 3, "name": "a"}],
        "annotations": [{"id": 0, "image_id": 7, "category_id": 40, "bbox": [5, 5, 8, 8], "area": 64}],
    }
    (tmp_path / "x.json").write_text(json.dumps(truth))
    name = f"eval_{tmp_path.name}"
    register_coco_like(name, tmp_path / "x.json", tmp_path)
    evaluator = TinyCOCOEvaluator(name)
    evaluator.reset()
    evaluator.process(DatasetCatalog.get(name), [instances([[5, 5, 13, 13]], [1])])
    results = evaluator.evaluate()["bbox"]
    assert results["AP-b"] == pytest.approx(100)
    assert np.isnan(results["AP-a"])
    assert MetadataCatalog.get(name).thing_classes == ["a", "b"]


def evaluate_json(tmp_path, annotations, predicted, classes=None):
    """Evaluate boxes [5,5,13,13] of the given classes on one image with these annotations."""
    truth = {
        "images": [{"id": 7, "file_name": "a.png", "width": 50, "height": 50}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": annotations,
    }
    (tmp_path / "x.json").write_text(json.dumps(truth))
    name = f"lenient_{tmp_path.name}"
    register_coco_like(name, tmp_path / "x.json", tmp_path, classes)
    evaluator = TinyCOCOEvaluator(name)
    evaluator.reset()
    evaluator.process(DatasetCatalog.get(name), [instances([[5, 5, 13, 13]] * len(predicted), predicted)])
    return evaluator.evaluate()["bbox"]


GOOD = {"image_id": 7, "category_id": 1, "bbox": [5, 5, 8, 8], "area": 64}


def test_evaluation_survives_what_the_loader_survives(tmp_path):
    """No ids, null and NaN boxes, an unknown image, a text box: one good object is left, and found."""
    bad = [{**GOOD, "bbox": None}, {**GOOD, "bbox": [float("nan"), 1, 2, 3]}, {**GOOD, "image_id": 99}]
    assert evaluate_json(tmp_path, [GOOD, *bad], [0])["AP"] == pytest.approx(100)


def test_ignore_is_not_punished(tmp_path):
    """A detection in an ``ignore`` region is no false positive, and the region is not missed."""
    region = {**GOOD, "bbox": [4, 4, 12, 12], "ignore": 1, "iscrowd": 0}
    other = {**GOOD, "bbox": [30, 30, 8, 8]}
    truth = [region, other]
    results = evaluate_json(tmp_path, truth, [0])
    assert results["AP"] == 0  # `other` is missed
    assert results["AR@1500"] == 0
    (tmp_path / "only").mkdir()
    with pytest.raises(DatasetError, match="1 annotations are listed, all 1 usable ones are ignored"):
        evaluate_json(tmp_path / "only", [region], [0])  # a table of dashes would say nothing


def test_a_class_that_the_json_does_not_list_does_not_count(tmp_path):
    assert evaluate_json(tmp_path, [GOOD], [0, 1], classes=["a", "b"])["AP"] == pytest.approx(100)


def test_a_dataset_without_json_is_refused():
    DatasetCatalog.register("no_json", list)
    try:
        with pytest.raises(DatasetError, match="register_coco_like"):
            TinyCOCOEvaluator("no_json")
    finally:
        DatasetCatalog.remove("no_json")
