from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from d2tiny.data.coco.arrays import ground_truth_from_dict
from d2tiny.evaluation import curves, evaluate_arrays, get_protocol, report
from d2tiny.evaluation.detections import detections_from_dicts
from d2tiny.evaluation.errors import ERRORS, TRUE, analyse_errors, delta_ap
from d2tiny.evaluation.report import density_groups, worst_images, write_report
from tests.helpers.coco import random_dataset

AITOD = get_protocol("aitod")


def one_of_each():
    """Image 1: ships of 10×10 at x = 0, 100, 200, 300 and 400, one car at 500; one detection of each kind."""
    ships = [{"image_id": 1, "category_id": 1, "bbox": [100.0 * i, 0, 10, 10]} for i in range(5)]
    cars = [{"image_id": 1, "category_id": 2, "bbox": [500.0, 0, 10, 10]}]
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": 640, "height": 100}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "ship"}, {"id": 2, "name": "car"}],
        "annotations": [*ships, *cars],
    }

    def found(x, score, category=1, width=10.0):
        return {"image_id": 1, "category_id": category, "bbox": [x, 0, width, 10], "score": score}

    detections = [
        found(0.0, 0.9),  # right
        found(1.0, 0.8),  # duplicate, IoU 9/11
        found(106.0, 0.7),  # localisation, IoU 4/16
        found(500.0, 0.6),  # class: it is the car
        found(506.0, 0.55),  # both
        found(600.0, 0.5),  # background
        found(200.0, 0.4),  # right
    ]
    arrays = ground_truth_from_dict(truth)
    return arrays, detections_from_dicts(arrays, detections)


def test_each_kind_is_named():
    analysis = analyse_errors(*one_of_each(), AITOD)
    assert analysis.counts() == {
        "missed": 2,  # the ships at 300 and 400; that at 100 is only mislocated, the car only mistaken
        "localisation": 1,
        "class": 1,
        "both": 1,
        "duplicate": 1,
        "background": 1,
    }
    assert analysis.target.tolist() == [0, 0, 1, 5, 5, -1, 2]


def test_what_each_error_costs_by_hand():
    """Ships: true at rank 1 and 7 of 5 objects: recall .2 at precision 1, .4 at 2/7; car: 0.

    AP50(ship) = (21 · 1 + 20 · 2/7) / 101. Without missed ships (3 objects left): recall 1/3 → 34 points at 1,
    2/3 → 33 at 2/7. Without the duplicate the second true one is 6th: 2/6. With the box mended: true at 1, 3, 7 →
    recalls .2, .4, .6, precisions 1, 2/3, 3/7. With the class mended: the car has AP 1, and the false ship is gone.
    """
    lost = delta_ap(analyse_errors(*one_of_each(), AITOD))
    ship = (21 + 20 * 2 / 7) / 101
    assert lost["AP50"] == pytest.approx(100 * ship / 2)

    def gain(ship_now, car_now=0.0):
        return pytest.approx(100 * ((ship_now + car_now) - ship) / 2)

    assert lost["missed"] == gain((34 + 33 * 2 / 7) / 101)
    assert lost["duplicate"] == gain((21 + 20 * 2 / 6) / 101)
    assert lost["background"] == gain((21 + 20 * 2 / 6) / 101)
    assert lost["both"] == gain((21 + 20 * 2 / 6) / 101)
    assert lost["localisation"] == gain((21 + 20 * 2 / 3 + 20 * 3 / 7) / 101)
    assert lost["class"] == gain((21 + 20 * 2 / 6) / 101, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_ap50_is_the_engines_and_no_error_costs_less_than_nothing(seed):
    truth, found = random_dataset(np.random.default_rng(seed))
    arrays = ground_truth_from_dict(truth)
    detections = detections_from_dicts(arrays, found)
    lost = delta_ap(analyse_errors(arrays, detections, AITOD))
    assert lost["AP50"] == pytest.approx(evaluate_arrays(arrays, detections, AITOD).metrics()["AP50"], abs=1e-9)
    assert all(lost[name] > -1e-9 for name in ERRORS)


def test_groups_by_size_and_density():
    analysis = analyse_errors(*one_of_each(), AITOD)
    assert delta_ap(analysis, area=(64, 256))["objects"] == 6
    assert delta_ap(analysis, area=(0, 64))["objects"] == 0
    assert np.isnan(delta_ap(analysis, area=(0, 64))["AP50"])
    assert {name: mask.tolist() for name, mask in density_groups(analysis.truth).items()} == {
        "1-10 objects": [True, False]
    }
    assert delta_ap(analysis, images=np.array([False, True]))["objects"] == 0


def test_recall_by_size_and_curves():
    truth, found = one_of_each()
    recall, counts = curves.recall_by_size(truth, found, AITOD, np.array([0.0, 9, 11, 20]), (0.2, 0.5))
    assert counts.tolist() == [0, 6, 0]
    assert recall[:, 1].tolist() == pytest.approx([3 / 6, 2 / 6])  # the mislocated ship counts at 0.2
    assert np.isnan(recall[:, 0]).all()
    analysis = analyse_errors(truth, found, AITOD)
    precision = curves.precision_recall(analysis)
    assert precision[0, [0, 20, 21, 40, 41]].tolist() == pytest.approx([1, 1, 2 / 7, 2 / 7, 0])
    assert (precision[1] == 0).all()
    # F1 is 2·1/(1+5) at .9 and 2·2/(7+5) at .4: equal, the higher score is taken
    assert curves.best_thresholds(analysis).tolist() == pytest.approx([0.9, 0.5])


def test_calibration_by_hand():
    """Bins of one half: above, 1 of 6 is right, mean score .675; below, 1 of 1 at .4."""
    measured = curves.calibration(analyse_errors(*one_of_each(), AITOD), bins=2)
    assert measured.count.tolist() == [1, 6]
    assert measured.precision.tolist() == pytest.approx([1, 1 / 6])
    assert measured.error == pytest.approx((0.6 * 1 + (4.05 / 6 - 1 / 6) * 6) / 7)


def test_worst_images_count_what_is_shown():
    analysis = analyse_errors(*one_of_each(), AITOD)
    order, missed, false = worst_images(analysis, np.array([0.75, 0.75]))
    assert order.tolist() == [0, 1]
    assert (missed.tolist(), false.tolist()) == ([5, 0], [1, 0])


def crowd_of(number, side=8.0):
    """So many objects of one class in one image, each found, with falling scores."""
    annotations = [
        {"image_id": 1, "category_id": 1, "bbox": [20.0 * (i % 40), 20.0 * (i // 40), side, side]}
        for i in range(number)
    ]
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": annotations}
    arrays = ground_truth_from_dict(truth)
    found = [{**a, "score": 1 - i / 1000} for i, a in enumerate(annotations)]
    return arrays, detections_from_dicts(arrays, found)


@pytest.mark.parametrize(("name", "number"), [("visdrone", 600), ("visdrone_unique", 600), ("soda", 300), ("dior", 7)])
def test_the_analysis_follows_the_protocols_limits_and_integrator(name, number):
    truth, found = crowd_of(number)
    protocol = get_protocol(name)
    result = evaluate_arrays(truth, found, protocol)
    expected = float(result.ap[protocol.integrators[0]][0, 0, 0]) * 100
    assert delta_ap(analyse_errors(truth, found, protocol))["AP50"] == pytest.approx(expected)


def test_regions_of_visdrone_take_part_in_no_error():
    truth, found = crowd_of(3)
    region = {"region_image": np.array([0], np.int32), "regions": np.array([[0.0, 0, 12, 12]])}
    truth = replace(truth, **region, region_drops=np.array([True]))
    analysis = analyse_errors(truth, found.select(np.array([1, 2])), get_protocol("visdrone"))
    assert analysis.counts()["missed"] == 0
    assert delta_ap(analysis)["AP50"] == pytest.approx(100)


def test_only_misses_cost_everything_and_false_alarms_beside_them_nothing_less():
    """Without the miss nothing is left to find: perfect if nothing is claimed, worthless if something is."""
    truth, found = crowd_of(1)
    alone = delta_ap(analyse_errors(truth, found.select(np.zeros(1, bool)), AITOD))
    assert (alone["AP50"], alone["missed"]) == (0, 100)
    away = replace(found, boxes=found.boxes + 500)
    assert delta_ap(analyse_errors(truth, away, AITOD))["missed"] == 0


def test_ties_are_ordered_as_the_engine_orders_them():
    """File order: image 2 false, image 1 true, image 2 true, all of one score."""
    annotations = [{"image_id": i, "category_id": 1, "bbox": [0.0, 0, 10, 10]} for i in (1, 2)]
    truth = {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 1, "name": "a"}], "annotations": annotations}
    arrays = ground_truth_from_dict(truth)
    found = [{**annotations[1], "bbox": [90.0, 0, 10, 10]}, annotations[0], annotations[1]]
    detections = detections_from_dicts(arrays, [{**d, "score": 0.5} for d in found])
    expected = evaluate_arrays(arrays, detections, AITOD).metrics()["AP50"]
    assert delta_ap(analyse_errors(arrays, detections, AITOD))["AP50"] == pytest.approx(expected)
    # the threshold takes all three or none
    assert curves.best_thresholds(analyse_errors(arrays, detections, AITOD)).tolist() == [0.5]


def test_nothing_to_find_is_no_crash(tmp_path):
    truth, found = crowd_of(2)
    metrics = write_report(truth.select(np.zeros(2, bool)), found, AITOD, tmp_path / "out")
    assert np.isnan(metrics["AP"])


def test_scores_that_are_no_probabilities_are_said_to_be_none(tmp_path):
    truth, found = crowd_of(2)
    measured = curves.calibration(analyse_errors(truth, replace(found, scores=found.scores * 99), AITOD))
    assert np.isnan(measured.error)
    write_report(truth, replace(found, scores=found.scores * 1e300), AITOD, tmp_path / "out")
    assert "no probabilities" in (tmp_path / "out" / "index.html").read_text()


def test_strange_names_and_boxes_are_drawn(tmp_path):
    truth, found = one_of_each()
    cv2.imwrite(str(tmp_path / "a.png"), np.full((100, 640, 3), 90, np.uint8))
    names = {"classes": (r"$\frac", "_車両"), "file_names": ("a.png", "../x.png")}
    far = found.boxes.copy()
    far[5] = (1e10, -1e10, 5, 5)
    write_report(replace(truth, **names), replace(found, boxes=far), AITOD, tmp_path / "out", images=tmp_path)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "_車両" in page
    assert page.count("data:image/jpeg") == 1


def test_large_scenes_are_drawn_smaller(tmp_path):
    """6400 px become 1600: the missed car at x = 6000 is drawn at 1500. No scene is in memory as a whole."""
    truth, found = one_of_each()
    boxes = truth.boxes.copy()
    boxes[-1] = (6000, 40, 40, 40)
    analysis = analyse_errors(replace(truth, boxes=boxes), found.select(np.zeros(len(found), bool)), AITOD)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((100, 6400, 3), np.uint8))
    (picture, caption), *_ = report._pictures(analysis, tmp_path, np.zeros(2))
    assert picture.shape == (25, 1600, 3)
    red = (picture[..., 0] > 200) & (picture[..., 2] < 100)
    columns = np.flatnonzero(red.any(axis=0))
    assert columns.max() in range(1508, 1512)
    assert not red[:, 130:1495].any()
    assert caption == "a.png: 6 missed, 0 false"


@pytest.mark.parametrize("empty", [False, True])
def test_report_is_one_whole_page(tmp_path, empty):
    truth, found = one_of_each()
    if empty:
        found = found.select(np.zeros(len(found), bool))
    cv2.imwrite(str(tmp_path / "a.png"), np.full((100, 640, 3), 90, np.uint8))
    metrics = write_report(truth, found, AITOD, tmp_path / "out", images=tmp_path, title="<Run> & co")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "&lt;Run&gt; &amp; co" in page
    assert "http://" not in page.replace("http://www.w3.org/", "").replace("http://purl.org/", "").replace(
        "http://creativecommons.org/", ""
    )
    assert 'src="data:image/jpeg' in page
    assert page.rstrip().endswith("</html>")
    saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert saved["AP50"] == pytest.approx(metrics["AP50"])
    assert saved["APvt"] is None  # no such object: NaN is no json


def test_kinds_are_stable_under_ties():
    truth, found = one_of_each()
    assert (analyse_errors(truth, found, AITOD).kind == analyse_errors(truth, found, AITOD).kind).all()
    assert int((analyse_errors(truth, found, AITOD).kind == TRUE).sum()) == 2
