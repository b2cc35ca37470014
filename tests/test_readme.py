"""README.md: short, narrow, and its figures are those of results/."""

from __future__ import annotations

import json
import re

from tests.helpers import ROOT
from tests.helpers.docs import README

RESULTS = ROOT / "results"


def read(name):
    return json.loads((RESULTS / name).read_text())


def test_it_is_short_and_narrow():
    """A terminal of 100 columns shows it; addresses of links do not count."""
    lines = [re.sub(r"\]\([^)]*\)", "]", line) for line in README.splitlines()]
    assert len(lines) <= 110
    assert not [line for line in lines if len(line) > 100]


def test_the_first_screen_predicts():
    assert "d2tiny predict picture.jpg" in "\n".join(README.splitlines()[:24])


def test_figures_of_the_table_are_those_of_results():
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", README, flags=re.MULTILINE))
    expected = {}
    evaluation = {row["contender"]: row["total_s"] for row in read("evaluation/images_2000.json")["rows"]}
    ours, reference = evaluation.pop("d2tiny"), evaluation["aitodpycocotools"]
    fastest = min(evaluation, key=evaluation.__getitem__)
    expected["evaluate"] = f"{ours:.1f} s | {fastest} {evaluation[fastest]:.1f} s, AI-TOD's code {reference:.0f} s"
    labels = {
        r["contender"]: r["cpu_s"]
        for r in read("assigners/hla.json")["rows"]
        if (r["ratios"], r["objects"]) == (1, 2000)
    }
    expected["RFLA's labels"] = f"{labels['grid']:.3f} s | RFLA's code {labels['reference']:.1f} s"
    merging = read("scenes/merging.json")
    seconds = next(row for row in merging["seconds"] if row["boxes"] == 100404)
    expected["merge"] = "{d2tiny:.3f} s | SAHI {sahi_greedy_nmm:.1f} s, supervision {supervision_nmm:.1f} s".format(
        **seconds
    )
    wrong = {row["contender"]: row["count_error_%"] for row in merging["quality"]}
    expected["objects that merging"] = "{d2tiny} % | SAHI {sahi_greedy_nmm} %, supervision {supervision_nmm} %".format(
        **wrong
    )
    models = {name: cell["seconds"] for name, cell in read("deploy/cpu.json")["rows"]["faster_rfla"]["1"].items()}
    expected["Faster"] = f"{models['eager']:.2f} s | Detectron2 {models['stock']:.2f} s"
    expected["the same exported"] = f"{models['openvino_bf16']:.2f} s, {models['openvino_int8']:.2f} s |"
    table = next(
        rows for name, rows in read("loading/scenes_800.json")["tables"].items() if name.endswith("memory kept")
    )
    speed = {row["contender"]: row["images_per_s"] for row in table}
    ours, stock = speed["TinyDatasetMapper (with kornia-rs)"], speed["Detectron2 DatasetMapper"]
    expected["PNGs"] = f"{ours:.0f} /s | Detectron2 {stock:.0f} /s"
    assert len(expected) == 7
    for work, cells in expected.items():
        assert [row for name, row in rows.items() if name.startswith(work)] == [cells]


def test_figures_of_the_published_weights_are_those_of_the_manifest():
    manifest = json.loads((ROOT / "d2tiny" / "weights" / "manifest.json").read_text())
    for weights in manifest["weights"]:
        ap = f"{weights['measured']['metrics']['AP']:.1f} AP"
        assert re.search(rf"\[{weights['name']}\]\([^)]+\) \([^)]*{re.escape(ap)}", README.replace("\n", " ")), weights[
            "name"
        ]
