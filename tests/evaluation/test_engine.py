from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.evaluation.pascal_voc_evaluation import voc_ap

from d2tiny.data.coco.arrays import ground_truth_from_dict
from d2tiny.evaluation import Protocol, evaluate_arrays, evaluate_detections, get_protocol, make_protocol
from d2tiny.evaluation.detections import Detections, detections_from_dicts
from d2tiny.evaluation.integrators import average_precision
from d2tiny.evaluation.lrp import optimal_lrp
from d2tiny.evaluation.regions import outside_regions
from d2tiny.utils.errors import ConfigError, DatasetError
from tests.helpers.coco import hit, one_object, pycoco, random_dataset
from tests.reference import evaluation as slow

REFERENCE = json.loads((Path(__file__).parent / "aitod_reference.json").read_text())


def evaluate(truth, found, protocol):
    arrays = ground_truth_from_dict(truth)
    return evaluate_arrays(arrays, detections_from_dicts(arrays, found), get_protocol(protocol))


@pytest.mark.parametrize("seed", [int(s) for s in REFERENCE["stats"]])
def test_all_19_numbers_equal_the_aitod_reference(seed):
    truth, found = random_dataset(np.random.default_rng(seed))
    if seed % 4 == 3:
        found = [d for d in found if d["category_id"] != 11]
    ours = evaluate(truth, found, "aitod").metrics()
    for name, value in zip(REFERENCE["names"], REFERENCE["stats"][str(seed)], strict=True):
        if name == "AP25":  # the reference prints -1, because 0.25 is not among its thresholds
            continue
        expected = np.nan if value == -1 else value * 100
        assert ours[name] == pytest.approx(expected, abs=1e-12, nan_ok=True), name


def toy():
    """docs/papers/evaluation.md#olrp: four detections, the second false, IoU .9, .6, .55, four objects of 10×10."""
    truth = one_object()
    truth["annotations"] = [
        {"id": i, "image_id": 0, "category_id": 1, "bbox": [30.0 * i, 0, 10, 10], "area": 100.0, "iscrowd": 0}
        for i in range(4)
    ]
    # the overlap of a box that is lower at the bottom is its height / 10
    boxes = [(0.0, 0, 10, 9), (500.0, 0, 10, 10), (30.0, 0, 10, 6), (60.0, 0, 10, 5.5)]
    return truth, [hit(box, 0.9 - 0.1 * i) for i, box in enumerate(boxes)]


def test_four_detections_by_hand():
    """LRP after each detection .8, .84, .8, .78; oLRP .78, Loc .95/3 = .316667, FP 1/4, FN 1/4; AP50 .6287128713."""
    result = evaluate(*toy(), "aitod")
    metrics = result.metrics()
    assert metrics["AP50"] == pytest.approx(62.87128713)
    assert metrics["oLRP"] == pytest.approx(78)
    assert metrics["oLRP_Loc"] == pytest.approx(95 / 3)
    assert metrics["oLRP_FP"] == metrics["oLRP_FN"] == pytest.approx(25)
    assert metrics["threshold-ship"] == pytest.approx(0.6)
    assert evaluate(*toy(), "dior").metrics()["AP50"] == pytest.approx(62.5)  # area under the envelope


@pytest.mark.parametrize("seed", range(20))
def test_olrp_is_the_best_of_all_prefixes(seed):
    rng = np.random.default_rng(seed)
    flags = rng.choice([0, 1, None], 30, p=[0.5, 0.4, 0.1]).tolist()
    ious = np.where(np.array(flags) == 1, rng.uniform(0.5, 1, 30), 0.0)
    scores = np.sort(rng.random(30))[::-1]
    positives = sum(f == 1 for f in flags) + int(rng.integers(0, 5))
    true = np.flatnonzero(np.array(flags) == 1)
    before = np.array([sum(f == 0 for f in flags[:i]) for i in true])
    ours = optimal_lrp(before, ious[true], scores[true], positives)
    assert tuple(ours) == pytest.approx(slow.optimal_lrp(flags, ious, scores, positives))


def test_olrp_without_anything():
    empty = np.zeros(0)
    assert optimal_lrp(empty, empty, empty, 3)[:1] == (1.0,)
    assert optimal_lrp(empty, empty, empty, 3).false_negative == 1
    assert np.isnan(optimal_lrp(empty, empty, empty, 0)).all()
    metrics = evaluate_detections(one_object(), [])
    assert (metrics["oLRP"], metrics["oLRP_FN"]) == (100, 100)
    assert np.isnan(metrics["oLRP_Loc"])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["dior", "dota_task2"])
def test_voc_protocols_equal_slow_matching_and_detectron2s_integral(seed, name):
    truth, found = random_dataset(np.random.default_rng(seed))
    found = [{**d, "score": d["score"] + i * 1e-9} for i, d in enumerate(found)]  # no ties: their order is undefined
    protocol = get_protocol(name)
    result = evaluate(truth, found, name)
    for k, category in enumerate((10, 11)):
        plus = 1.0 if protocol.overlap_plus_one else 0.0
        flags, positives = slow.voc_flags(truth, found, category, 0.5, plus, protocol.strict_overlap)
        recall, precision = slow.curve(flags, positives)
        assert result.ap["voc_area"][0, k, 0] == pytest.approx(voc_ap(recall, precision, False), abs=1e-12)
        assert result.ap["voc07"][0, k, 0] == pytest.approx(voc_ap(recall, precision, True), abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_lerp101_equals_the_whole_curve_interpolated(seed):
    """Envelope of all points, (0, 1) before and (1, 0) after, linear between them, trapezoids of 1/100."""
    rng = np.random.default_rng(seed)
    flags = rng.integers(0, 2, 40 if seed else 0)
    positives = int(flags.sum()) + int(rng.integers(1, 20))
    tp = np.cumsum(flags)
    recall = np.concatenate(([0.0], tp / positives, [1.0]))
    precision = np.concatenate(([1.0], tp / np.arange(1, len(flags) + 1), [0.0]))
    x = np.linspace(0, 1, 101)
    y = np.interp(x, recall, np.maximum.accumulate(precision[::-1])[::-1])
    places = np.flatnonzero(flags)
    ours = average_precision(places - np.arange(len(places)), int((flags == 0).sum()), positives, "lerp101")
    assert ours == pytest.approx(((y[1:] + y[:-1]) / 200).sum(), abs=1e-12)


def test_integrators_by_hand():
    """One of two objects, found first: recall .5 at precision 1.

    101 points: 51 recalls ≤ .5 → 51/101; area .5; 11 points: 6/11; linear: 1 up to .5, then falling to (1, 0).
    """
    before = np.array([0])
    assert average_precision(before, 0, 2, "coco101") == pytest.approx(51 / 101)
    assert average_precision(before, 0, 2, "voc_area") == 0.5
    assert average_precision(before, 0, 2, "voc07") == pytest.approx(6 / 11)
    assert average_precision(before, 0, 2, "lerp101") == pytest.approx(0.75)
    assert all(np.isnan(average_precision(before, 0, 0, how)) for how in ("coco101", "voc_area", "voc07", "lerp101"))
    none = np.zeros(0, int)
    assert [average_precision(none, 5, 2, how) for how in ("coco101", "voc_area", "voc07")] == [0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_soda_judges_small_objects_on_100_detections(seed):
    """sodadeval: base area [0, 1024], AP at the first limit, AR of bins at the last."""
    truth, found = random_dataset(np.random.default_rng(seed))
    soda = get_protocol("soda").with_max_dets((3, 5, 20))
    soda = Protocol("soda", soda.areas, (3, 5, 20), base_area=(0.0, 1024.0), ap_max_dets="first")
    ours = evaluate(truth, found, soda).metrics()
    areas = {"Small": (0.0, 1024.0), **soda.areas}
    first = pycoco(truth, found, Protocol("x", areas, (3,)))
    last = pycoco(truth, found, Protocol("x", areas, (3, 5, 20)))
    assert ours["AP"] == pytest.approx(first["APSmall"], abs=1e-12)
    for label in soda.areas:
        assert ours[f"AP{label}"] == pytest.approx(first[f"AP{label}"], abs=1e-12, nan_ok=True)
    assert "AR@20" in last


def visdrone_dataset(seed):
    """Random objects with ignored ones and regions; integer boxes, scores without ties."""
    rng = np.random.default_rng(seed)
    truth, found = random_dataset(rng, images=5)
    for item in (*truth["annotations"], *found):
        item["bbox"] = [float(max(1, round(v))) for v in item["bbox"]]
    for a in truth["annotations"]:
        a["area"] = a["bbox"][2] * a["bbox"][3]
    found = [{**d, "score": d["score"] + i * 1e-7} for i, d in enumerate(found)]
    regions = {}
    for image in truth["images"][:3]:
        boxes = [[int(v) for v in (*rng.integers(1, 120, 2), *rng.integers(20, 80, 2))] for _ in range(2)]
        regions[image["id"]] = image["ignored_regions"] = boxes
    return truth, found, regions


@pytest.mark.parametrize("seed", range(5))
def test_visdrone_equals_its_toolkit_in_slow_loops(seed):
    truth, found, regions = visdrone_dataset(seed)
    ours = evaluate(truth, found, "visdrone").metrics()
    for limit in (1, 10, 100, 500):
        ap, ar = slow.visdrone(truth, found, regions, (200, 200), limit)
        assert ours[f"AR@{limit}"] == pytest.approx(ar, abs=1e-9)
    assert ours["AP"] == pytest.approx(ap, abs=1e-9)
    assert evaluate(truth, found, "visdrone_unique").metrics()["AP"] != pytest.approx(ours["AP"])


def test_regions_drop_what_is_half_inside():
    """Region of 10 px at (11, 11): pixels 11..21; box of 10 px at (16, 11): pixels 17..26 × 12..21: half."""
    truth = ground_truth_from_dict(
        {"images": [{"id": 1, "ignored_regions": [[11, 11, 10, 10]]}], "categories": [], "annotations": []}
    )
    boxes = np.array([[16.0, 11, 10, 10], [17, 11, 10, 10], [100, 100, 5, 5]])
    assert [m.tolist() for m in outside_regions(truth, [(np.zeros(3, int), boxes)])] == [[False, True, True]]


def test_regions_hold_for_all_classes_elsewhere():
    """A detection in an ignored region is no false positive under COCO's rules, whatever its class."""
    truth = one_object()
    truth["images"][0]["ignored_regions"] = [[100, 100, 50, 50]]
    stray = hit((110.0, 110, 8, 8), score=0.95)
    assert evaluate_detections(truth, [stray, hit()])["AP"] == pytest.approx(100)
    del truth["images"][0]["ignored_regions"]
    assert evaluate_detections(truth, [stray, hit()])["AP"] == pytest.approx(50)


def test_ap25_is_reported_besides_and_no_part_of_the_mean():
    """IoU 0.4 is right at 0.25 only."""
    found = [hit((10.0, 10, 8, 3.2))]
    plain = evaluate_detections(one_object(), found)
    more = evaluate_detections(one_object(), found, make_protocol("aitod", extra_ious=[0.25]))
    assert more["AP25"] == pytest.approx(100)
    assert {k: v for k, v in more.items() if k != "AP25"} == pytest.approx(plain, nan_ok=True)


def test_own_areas_and_limits():
    protocol = make_protocol("aitod", areas={"mini": (0, 70), "rest": (70, 1e9)}, max_dets=[5, 50])
    metrics = evaluate_detections(one_object(), [hit()], protocol)
    assert metrics["APmini"] == pytest.approx(100)
    assert np.isnan(metrics["APrest"])
    assert {"AR@5", "AR@50"} <= set(metrics)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"areas": {"x": (5, 5)}}, "Area bin 'x'"),
        ({"areas": {"x": (-1, 5)}}, "Area bin 'x'"),
        ({"max_dets": [0, 5]}, "positive and rising"),
        ({"max_dets": []}, "positive and rising"),
        ({"extra_ious": [0.0]}, "IoU thresholds"),
    ],
)
def test_bad_protocols_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        make_protocol("aitod", **change)
    with pytest.raises(ConfigError, match="Did you mean 'voc_area'"):
        Protocol("x", {}, (1,), integrators=("voc-area",))


def test_order_of_images_and_objects_does_not_matter():
    truth, found = random_dataset(np.random.default_rng(4))
    found = [{**d, "score": d["score"] + i * 1e-9} for i, d in enumerate(found)]
    expected = evaluate(truth, found, "aitod").metrics()
    rng = np.random.default_rng(0)
    for values in (truth["images"], found, truth["categories"]):
        rng.shuffle(values)
    assert evaluate(truth, found, "aitod").metrics() == pytest.approx(expected, nan_ok=True)


def test_detections_with_nan_are_refused_and_unknown_images_named():
    truth = ground_truth_from_dict(one_object())
    with pytest.raises(DatasetError, match=r"1 detections have NaN.*number 0"):
        detections_from_dicts(truth, [hit(score=float("nan"))])
    with pytest.raises(DatasetError, match=r"first: 7.*another split"):
        detections_from_dicts(truth, [{**hit(), "image_id": 7}])
    assert len(Detections(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))) == 0


def test_max_dets_keep_sodas_rule():
    """300 objects in one image, all found: AP counts the first limit, 100, so recall ends at one third."""
    truth = one_object()
    truth["annotations"] = [
        {"id": i, "image_id": 0, "category_id": 1, "bbox": [10.0 * (i % 60), 10.0 * (i // 60), 8, 8], "area": 64.0}
        for i in range(300)
    ]
    found = [hit(a["bbox"], 1 - a["id"] / 400) for a in truth["annotations"]]
    plain = evaluate_detections(truth, found, "soda")
    again = evaluate_detections(truth, found, make_protocol("soda", max_dets=[100, 300, 1000]))
    assert plain["AP"] == again["AP"] == pytest.approx(34 / 101 * 100)
    assert plain["AR@300"] == pytest.approx(100)


@pytest.mark.parametrize("name", ["aitod", "dior", "dota_task2"])
def test_regions_are_not_punished_under_any_rule_of_matching(name):
    truth = one_object()
    truth["images"][0]["ignored_regions"] = [[100, 100, 50, 50]]
    found = [hit((110.0, 110, 8, 8), score=0.95), hit()]
    assert evaluate_detections(truth, found, name)["AP50"] == pytest.approx(100)
    # a region over a real object does not take its detection away
    truth["images"][0]["ignored_regions"] = [[0, 0, 50, 50]]
    assert evaluate_detections(truth, [hit((10.0, 10, 8, 7))], name)["AP50"] == pytest.approx(100)


@pytest.mark.parametrize("label", ["50", "@100", "all", "a b", ""])
def test_area_labels_that_would_hide_a_metric_are_refused(label):
    with pytest.raises(ConfigError, match="must be a word"):
        make_protocol("aitod", areas={label: (0, 64)})


def test_odd_areas_and_names_of_the_ground_truth():
    truth = one_object(area=float("nan"))
    assert evaluate_detections(truth, [hit()])["APvt"] == pytest.approx(100)
    truth["annotations"][0]["area"] = -1.0
    assert evaluate_detections(truth, [hit()])["APvt"] == pytest.approx(100)
    truth["categories"].append({"id": 2, "name": " ship"})
    assert {"AP-ship (1)", "AP-ship (2)"} <= set(evaluate_detections(truth, [hit()]))
    truth["annotations"][0]["image_id"] = 9
    with pytest.raises(DatasetError, match="image ids of the annotations"):
        evaluate_detections(truth, [hit()])


def test_huge_regions_and_boxes_take_no_memory():
    truth = one_object()
    truth["images"][0] |= {"ignored_regions": [[0, 0, 3e5, 3e5]], "width": 200, "height": 200}
    metrics = evaluate_detections(truth, [hit((1e19, 5.0, 8, 8))], "visdrone")
    assert np.isnan(metrics["AP"])  # the object lies in the region


def test_protocol_thresholds():
    with pytest.raises(ConfigError, match="rising"):
        Protocol("x", {}, (1,), iou_thresholds=(0.75, 0.5))
    with pytest.raises(ConfigError, match="below 1"):
        Protocol("x", {}, (1,), iou_thresholds=(1.0,), olrp=True)
    low = Protocol("x", {}, (10,), iou_thresholds=(0.3, 0.5), integrators=("coco101", "voc_area"))
    metrics = evaluate_detections(one_object(), [hit((10.0, 10, 8, 3.2))], low)  # IoU .4
    assert (metrics["AP50"], metrics["AP50_voc_area"]) == (0, 0)
    assert metrics["AP"] == pytest.approx(50)
