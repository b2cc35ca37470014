"""Doors of what is computed and drawn from a json: metrics, error report, statistics."""

from __future__ import annotations

import json

import numpy as np

from d2tiny.data.coco.arrays import load_ground_truth
from d2tiny.data.tools.statistics import crowded_images, size_table, summary, write_statistics
from d2tiny.evaluation import evaluate_arrays, get_protocol, load_detections
from d2tiny.evaluation.report import write_report
from tests.helpers.door import COCO, FOUND, Door, of_json, of_numbers

PROTOCOLS = ("aitod", "coco", "visdrone", "dota_hbb")
PAIR = {"gt": COCO, "found": FOUND}


def _pair(root):
    """Return ground truth and detections of a file that holds both."""
    content = (root / "pair.json").read_bytes()
    try:
        both = json.loads(content)
        parts = [json.dumps(both[key]).encode() for key in ("gt", "found")]
    except (ValueError, KeyError, TypeError, RecursionError):
        parts = [content, json.dumps(FOUND).encode()]
    (root / "pair").mkdir(exist_ok=True)
    for name, part in zip(("gt", "found"), parts, strict=True):
        (root / "pair" / f"{name}.json").write_bytes(part)
    truth = load_ground_truth(root / "pair" / "gt.json")
    truth.require_objects("pair.json")
    return truth, load_detections(root / "pair" / "found.json", truth)


def _evaluate(root):
    truth, found = _pair(root)
    for name in PROTOCOLS:
        values = evaluate_arrays(truth, found, get_protocol(name)).metrics()
        wrong = {key: v for key, v in values.items() if not _fits(key, v)}
        assert not wrong, (name, wrong)


def _fits(key, value):
    """Metrics are percent, NaN where nothing is; thresholds are scores, which may be any."""
    return key.startswith("threshold") or np.isnan(value) or 0 <= value <= 100


def _report(root):
    truth, found = _pair(root)
    metrics = write_report(truth, found, get_protocol("aitod"), root / "pair", images=root)
    json.loads((root / "pair" / "metrics.json").read_text())
    return metrics


def _statistics(root):
    truth = load_ground_truth(root / "coco.json")
    areas = get_protocol("aitod").areas
    assert (size_table(truth, areas) >= 0).all()
    return summary(truth), crowded_images(truth)


def _page(root):
    truth = load_ground_truth(root / "coco.json")
    write_statistics(truth, get_protocol("aitod").areas, root / "pair", images=root)


DOORS = {
    "evaluate": Door("pair.json", of_json(PAIR), _evaluate, writes="pair"),
    "report": Door("pair.json", of_numbers(PAIR), _report, writes="pair", every=40),
    "evaluate numbers": Door("pair.json", of_numbers(PAIR), _evaluate, writes="pair"),
    "statistics": Door("coco.json", of_json(COCO), _statistics),
    "page of statistics": Door("coco.json", of_numbers(COCO), _page, writes="pair", every=40),
}
