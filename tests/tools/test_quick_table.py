"""The statistics of the tables of trainings."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.helpers import ROOT
from tests.helpers.benchmarks import value_in_benchmarks

RESULTS = ROOT / "results"
ROWS = ("base", "up", "down", "once", "missing")
VALUES = {"base": {0: 10.0, 1: 11.0, 2: 50.0}, "up": {0: 11.0, 1: 13.0}, "down": {0: 9.0, 1: 10.0}, "once": {0: 12.0}}


def test_differences_are_paired_and_share_their_variance():
    """By hand: differences (1, 2), (-1, -1), (2); squares 0.5 with 2 degrees of freedom, t = 4.3027."""
    bases = dict.fromkeys(ROWS, "base")
    assert _differences(bases) == {"up": (1.5, 1.521), "down": (-1.0, 1.521), "once": (2.0, 2.151)}


def test_each_row_has_its_own_base():
    """By hand: up - down (2, 3), down - base (-1, -1); squares 0.5 with 2 degrees of freedom. No row of "once"."""
    assert _differences({"up": "down", "down": "base", "base": "base"}) == {"up": (2.5, 1.521), "down": (-1.0, 1.521)}


def test_trainings_are_compared_with_one_of_their_precision(tmp_path):
    """By hand: seed 0 in both, 10.5 - 10 and 12 - 11.5; 13 - 10 where the base has no such training, 14 - 11."""
    amp = "train.amp.enabled=true"
    files = {f"base_seed{seed}": _record(ap, amp) for seed, ap in ((0, 10.0), (1, 10.0), (2, 11.0))}
    files |= {"base_float32_seed0": _record(11.5), "row_seed0": _record(12.0), "row_seed1": _record(13.0)}
    files |= {"row_bfloat16_seed0": _record(10.5, amp), "row_seed2": _record(14.0, amp)}
    for name, record in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record | {"seed": int(name[-1])}))
    records = f"quick_table.load_records(['row', 'base'], Path({str(tmp_path)!r}))"
    bases = {"row": "base", "base": "base"}
    found = value_in_benchmarks("quick_table", f"quick_table.differences_to_bases({records}, {bases})")
    assert found == {"row": [0.5, 0.5, 3.0, 3.0]}


def test_a_superseded_twin_is_no_run_but_a_base(tmp_path):
    """By hand: 12 - 10 in bfloat16; the base itself has one run, in float32."""
    amp, metrics = "train.amp.enabled=true", dict.fromkeys(("AP50", "AP75", "APvt", "APt", "APs", "APm"), 1.0)
    given = {"base_seed0": (11.0, []), "base_bfloat16_seed0": (10.0, [amp]), "row_seed0": (12.0, [amp])}
    for name, (ap, overrides) in given.items():
        record = {"seed": 0, "overrides": overrides, "metrics": {"AP": ap, **metrics}}
        record |= {"superseded": "why"} if "bfloat16" in name else {}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    rows = "[quick_table.Row(name, name.title(), 'c') for name in ('base', 'row')]"
    text = value_in_benchmarks("quick_table", f"quick_table.table({rows}, Path({str(tmp_path)!r}), 'base')")
    assert [line.split(" | ")[1:3] for line in text.splitlines()[2:]] == [["1", "11.0"], ["1 (bfloat16)", "12.0"]]
    assert text.endswith("| +2.0 (one seed) |")


def test_a_base_of_another_precision_is_told(tmp_path):
    """Two trainings in float32: one with a twin of its base, one whose base has none in it."""
    amp, metrics = "train.amp.enabled=true", dict.fromkeys(("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm"), 1.0)
    for name, overrides in (("base_seed0", [amp]), ("base_float32_seed0", []), ("one_seed0", []), ("two_seed0", [amp])):
        record = {"seed": 0, "overrides": overrides, "metrics": metrics}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    rows = (
        "[quick_table.Row('base', 'Base', 'c'), quick_table.Row('one', 'One', 'c'),"
        " quick_table.Row('two', 'Two', 'c', base='one')]"
    )
    text = value_in_benchmarks("quick_table", f"quick_table.table({rows}, Path({str(tmp_path)!r}), 'base')")
    assert [line.split(" | ")[-1] for line in text.splitlines()[2:]] == [
        " |", "+0.0 (one seed) |", "+0.0 (one seed) (to One in float32) |",
    ]  # fmt: skip


def test_too_few_seeds_have_no_interval():
    """With less than three degrees of freedom nothing is said to be equal."""
    given = "(11.9, float('nan'), 1, 0), (-2.0, 12.3, 2, 1), (-0.6, 0.7, 2, 3), (1.0, 0.6, 2, 9)"
    assert value_in_benchmarks("quick_table", f"[str(quick_table.Difference(*fields)) for fields in ({given})]") == [
        "+11.9 (one seed)", "-2.0 (2 seeds)", "-0.6 ± 0.7: no difference", "+1.0 ± 0.6",
    ]  # fmt: skip


def test_the_page_has_the_rows_that_were_run():
    page = "before\n<!-- a -->\nold\n<!-- /a -->\n<!-- b -->\nkept\n<!-- /b -->\n"
    text = "| config |\n|---|\n| one | 1 |\n| two | not run |"
    assert value_in_benchmarks("quick_table", f"quick_table.with_block({page!r}, 'a', {text!r})") == page.replace(
        "old", "| config |\n|---|\n| one | 1 |"
    )


def test_one_run_has_no_spread(tmp_path):
    metrics = {"AP50": 30.0, "AP75": 5.0, "APvt": None, "APt": 1.0, "APs": 2.0, "APm": 3.0}
    for seed, ap in ((0, 10.0), (1, 11.0)):
        record = json.dumps({"seed": seed, "overrides": [], "metrics": {**metrics, "AP": ap}})
        (tmp_path / f"two_seed{seed}.json").write_text(record)
        if seed == 1:
            (tmp_path / "one_seed1.json").write_text(record)
    rows = "[quick_table.Row(name, name.title(), 'config') for name in ('one', 'two', 'none')]"
    text = value_in_benchmarks("quick_table", f"quick_table.table({rows}, Path({str(tmp_path)!r}), 'two')")
    assert text.splitlines()[0].endswith("| APm | ΔAP to Two |")
    assert text.splitlines()[2:] == [
        "| One | 1 | 11.0 | 30.0 | 5.0 | - | 1.0 | 2.0 | 3.0 | +0.0 (one seed) |",
        "| Two | 2 | 10.5 ± 0.5 | 30.0 ± 0.0 | 5.0 ± 0.0 | - | 1.0 ± 0.0 | 2.0 ± 0.0 | 3.0 ± 0.0 |  |",
        "| None | 0 |" + " not run |" * 8,
    ]


def test_classes_with_many_objects_have_a_mean_of_their_own(tmp_path):
    """By hand: (30 + 20) / 2, and (32 + 22) / 2 with an AP that the class with few objects spoils."""
    metrics = dict.fromkeys(("AP50", "AP75", "APvt", "APt", "APs", "APm"), 1.0)
    for name, ap, person, car in (("base", 20.0, 30.0, 20.0), ("row", 18.0, 32.0, 22.0)):
        record = {"seed": 0, "overrides": [], "metrics": {**metrics, "AP": ap, "AP-person": person, "AP-car": car}}
        (tmp_path / f"{name}_seed0.json").write_text(json.dumps(record))
    rows = "[quick_table.Row(name, name, 'config') for name in ('base', 'row')]"
    arguments = f"{rows}, Path({str(tmp_path)!r}), 'base', ('person', 'car')"
    head, _, base, row = value_in_benchmarks("quick_table", f"quick_table.table({arguments})").splitlines()
    assert head.endswith("| AP, 2 classes | ΔAP to base | ΔAP, 2 classes |")
    assert base.endswith("| 25.0 |  |  |") and row.endswith("| 27.0 | -2.0 (one seed) | +2.0 (one seed) |")


def test_runs_of_another_precision_than_the_base_row_are_marked(tmp_path):
    metrics = dict.fromkeys(("AP", "AP50", "AP75", "APvt", "APt", "APs", "APm"), 1.0)
    amp = "train.amp.enabled=true"
    for name, overrides in (("base_seed0", [amp]), ("base_seed1", []), ("row_seed0", []), ("row_seed1", [])):
        record = {"seed": int(name[-1]), "overrides": overrides, "metrics": metrics}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    rows = "[quick_table.Row(name, name, 'config') for name in ('row', 'base')]"
    text = value_in_benchmarks("quick_table", f"quick_table.table({rows}, Path({str(tmp_path)!r}), 'base')")
    assert [line.split(" | ")[:2] for line in text.splitlines()[2:]] == [
        ["| row", "2 (float32)"],
        ["| base", "2 (1 in float32)"],
    ]


def test_details_are_errors_recall_and_cost(tmp_path):
    """Rows whose overrides change layers have no known cost; kinds of errors are those of kept detections."""
    metrics = {"oLRP": 80.0, "oLRP_Loc": 28.0, "oLRP_FP": 46.0, "oLRP_FN": 47.0, "AR@1500": 33.0}
    for name in ("kept_seed0", "other_seed0"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"seed": 0, "overrides": [], "metrics": metrics}))
    kinds = {"missed": 5, "localisation": 9, "class": 2, "both": 0, "duplicate": 0, "background": 11}
    (tmp_path / "error_kinds.json").write_text(json.dumps({"models": {"kept_float32_seed0": kinds}}))
    rows = (
        "[quick_table.Row('kept', 'Kept', 'faster_rcnn_lite0_fpn_rfla'),"
        " quick_table.Row('other', 'Other', 'faster_rcnn_lite0_efpnbs_rfla', ('model.backbone.neck.cem=false',)),"
        " quick_table.Row('none', 'None', 'x')]"
    )
    text = value_in_benchmarks("quick_table", f"quick_table.details({rows}, Path({str(tmp_path)!r}))")
    cost = json.loads((RESULTS / "zoo" / "cost.json").read_text())["hituav/faster_rcnn_lite0_fpn_rfla"]
    shared = "1 | 80.0 | 28.0 | 46.0 | 47.0 | 33.0"
    kept = " | ".join(f"{value}.0 (float32)" for value in kinds.values())
    assert text.splitlines()[2:] == [
        f"| Kept | {shared} | {kept} | {cost['params_m']:.1f} | {cost['gmac']:.1f} |",
        f"| Other | {shared} | - | - | - | - | - | - | - | - |",
        "| None | 0 |" + " not run |" * 13,
    ]


def test_details_tell_what_a_training_step_costs(tmp_path):
    """As a multiple of the base's time, for the rows that were measured; no column without measurements."""
    for name in ("base", "row", "new"):
        record = {"seed": 0, "overrides": [], "metrics": {}}
        (tmp_path / f"{name}_seed0.json").write_text(json.dumps(record))
    rows = "[quick_table.Row(name, name, 'config') for name in ('base', 'row', 'new')]"
    call = f"quick_table.details({rows}, Path({str(tmp_path)!r}), 'base')"
    assert "training" not in value_in_benchmarks("quick_table", call)
    costs = {"base": {"seconds_per_image": 0.2, "mb": 300}, "row": {"seconds_per_image": 0.25, "mb": 400.4}}
    (tmp_path / "training_cost.json").write_text(json.dumps({"rows": costs}))
    head, _, *lines = value_in_benchmarks("quick_table", call).splitlines()
    assert [line.split(" | ")[-2:] for line in (head, *lines)] == [
        ["training step, ×", "MB in training |"],
        ["1.00", "300 |"],
        ["1.25", "400 |"],
        ["-", "- |"],
    ]


def test_tables_and_page_are_those_of_the_records():
    """Repeat with ``python benchmarks/quick_table.py --table TABLE --table-only``."""
    texts = value_in_benchmarks(
        "quick_table",
        "{name: (quick_table.table(rows, quick_table.RESULTS / name, quick_table.BASES.get(name, ''),"
        " quick_table.COMMON_CLASSES.get(name, ())),"
        " quick_table.details(rows, quick_table.RESULTS / name, quick_table.BASES.get(name, '')))"
        " for name, rows in quick_table.TABLES.items() if (quick_table.RESULTS / name).is_dir()}",
    )
    page = "".join(path.read_text() for path in RESULTS.glob("*.md"))
    shown = set(re.findall(r"<!-- (\w+) -->", page))
    assert shown == set(texts)
    for name, (text, details) in texts.items():
        assert (RESULTS / name / "table.md").read_text() == text + "\n", name
        assert (RESULTS / name / "details.md").read_text() == details + "\n", name
        if name in shown:
            block = page.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- /{name} -->")[0]
            assert block.splitlines() == [line for line in text.splitlines() if "| not run |" not in line], name


def _record(ap: float, *overrides: str) -> dict[str, Any]:
    return {"metrics": {"AP": ap}, "overrides": overrides}


def _differences(bases: dict[str, str]) -> dict[str, tuple[float, float]]:
    values = {row: {seed: _record(ap) for seed, ap in by_seed.items()} for row, by_seed in VALUES.items()}
    by_run = "{quick_table.Run(seed, 'float32'): record for seed, record in runs.items()}"
    records = f"{{row: {by_run} for row, runs in {values}.items()}}"
    found = value_in_benchmarks(
        "quick_table", f"quick_table.paired_differences(quick_table.differences_to_bases({records}, {bases}))"
    )
    return {row: (round(pair[0], 3), round(pair[1], 3)) for row, pair in found.items()}
