"""The paired bootstrap over validation images of ``benchmarks/bootstrap.py``."""

from __future__ import annotations

from typing import Any

from tests.helpers.benchmarks import value_in_benchmarks

SETUP = """[
    truth := ground_truth_from_dict({
        "images": [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in (3, 5)],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 1, "bbox": [0, 0, 8, 8]},
            {"id": 2, "image_id": 3, "category_id": 1, "bbox": [20, 20, 8, 8]},
        ],
    }),
    good := detections_from_dicts(truth, [
        {"image_id": 3, "category_id": 1, "bbox": [20, 20, 8, 8], "score": 0.9},
        {"image_id": 5, "category_id": 1, "bbox": [0, 0, 8, 8], "score": 0.8},
    ]),
    half := detections_from_dicts(truth, [{"image_id": 3, "category_id": 1, "bbox": [20, 20, 8, 8], "score": 0.9}]),
]"""


def test_places_of_drawn_images():
    """By hand: image 2 has entries 0 and 3, image 0 entry 1, image 1 none."""
    found = value_in_benchmarks(
        "bootstrap",
        "[a.tolist() for a in bootstrap.places(bootstrap.np.array([2, 0, 3, 2]), bootstrap.np.array([2, 1, 0, 2]))]",
    )
    assert found == [[0, 3, 1, 0, 3], [0, 0, 2, 3, 3]]


def test_an_image_that_is_drawn_twice_counts_twice():
    """Of objects in image 3, 3 and 5, a model that misses image 5 finds two of three: 67 of 101 places of recall."""
    drawn = "bootstrap.resampled(truth, [good, half], bootstrap.np.array([0, 0, 1]))"
    found = _value(f"[evaluate_arrays({drawn}[0], d, get_protocol('aitod')).metrics()['AP'] for d in {drawn}[1]]")
    assert [round(value, 6) for value in found] == [100, round(100 * 67 / 101, 6)]


def test_differences_of_the_images_as_they_are_and_of_draws():
    """Half of the objects are 51 of 101 places; on draws of one image both find all, or the second none."""
    values = _value("bootstrap.differences(truth, [[good], [half, half]], 20)[:, 0, 0].tolist()")
    assert len(values) == 21
    half = round(100 * 51 / 101 - 100, 6)
    assert round(values[0], 6) == half
    assert {round(value, 6) for value in values[1:]} == {0.0, half, -100.0}


def _value(expression: str) -> Any:
    imports = (
        "from d2tiny.data.coco.arrays import ground_truth_from_dict",
        "from d2tiny.evaluation import evaluate_arrays, get_protocol",
        "from d2tiny.evaluation.detections import detections_from_dicts",
    )
    return value_in_benchmarks("; ".join(("bootstrap", *imports)), f"({SETUP}, {expression})[-1]")
