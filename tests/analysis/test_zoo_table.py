"""The model zoo: its file, MODEL_ZOO.md, and the table of the site."""

from __future__ import annotations

import json

import pytest

from d2tiny import model_zoo
from d2tiny.analysis.cost import cost
from d2tiny.analysis.zoo import collect_rows, family_of, read_rows, rows_json, zoo_file
from d2tiny.analysis.zoo_table import html_table, markdown, refreshed
from d2tiny.config.files import config_names
from d2tiny.utils.errors import D2TinyError
from d2tiny.utils.published import read_manifest, shipped_folder
from tests.helpers import ROOT


def test_the_files_are_up_to_date():
    """Run `python tools/make_model_zoo.py` when this fails."""
    rows = collect_rows(ROOT / "results")
    assert zoo_file().read_text() == rows_json(rows)
    assert (ROOT / "MODEL_ZOO.md").read_text() == markdown(rows, read_manifest(shipped_folder()).weights)
    assert read_rows() == rows
    page = (ROOT / "docs" / "tiny_objects.md").read_text()
    assert refreshed(page, rows) == page
    wrong = page.replace("| 30.0 ± 0.7 |", "| 30.1 |")
    assert wrong != page
    assert refreshed(wrong, rows) == page


def test_records_of_models_that_are_no_more_are_not_shown():
    names = [row.name for row in collect_rows(ROOT / "results") if row.measured]
    old = json.loads((ROOT / "results/transformers/dino_r18_dgq_seed0.json").read_text())
    assert old["superseded"] and "quick/dino_r18_dgq" not in names and "quick/dino_lite0_dgq" in names


def test_rows_of_one_table_are_of_trainings_as_long():
    rows = collect_rows(ROOT / "results")
    lengths = {row.iterations for row in rows if row.name == "quick/faster_rcnn_lite0_fpn_rfla" and row.measured}
    assert lengths == {1000, 1500}
    sarl, rfla = (f"| `quick/faster_rcnn_lite0_{part}_rfla` | what | 0 | 0 | 0 |\n" for part in ("sarl", "fpn"))
    page = refreshed(f"{sarl}{rfla}\n{rfla}", rows)
    assert "| 20.7 ± 0.4 |" in page.splitlines()[1], "1,000 iterations beside SARL's"
    assert "| 21.3 ± 0.3 |" in page.splitlines()[3], "alone, the longest"


def test_every_config_has_a_cost_and_every_published_number_a_config():
    names = {name for name in model_zoo.list_configs() if not name.endswith(".yaml")}
    assert set(json.loads((ROOT / "results/zoo/cost.json").read_text())) == names
    assert set(json.loads((ROOT / "results/zoo/published.json").read_text())) <= names


def test_published_numbers_are_quoted_beside_as_many_epochs():
    """Of tables that say how long was trained, and with which images."""
    published = json.loads((ROOT / "results/zoo/published.json").read_text())
    known = {name: entry["epochs"] for name, entry in published.items() if "epochs" in entry}
    assert known
    for name, epochs in known.items():
        train = model_zoo.get_config(name).train
        assert train.max_iter == epochs * train.eval_period, name
        assert name.endswith(f"_{epochs}e"), name
    assert not [name for name, entry in published.items() if "DQ-DETR" in entry["source"] and name not in known]


def test_costs_are_those_of_the_models():
    stored = json.loads((ROOT / "results/zoo/cost.json").read_text())
    for name in (
        "quick/faster_rcnn_r18_efpnbs_rfla",
        "quick/detectors_r18_rfp_rfla",
        "quick/fcos_r18_p2_rfla",
        "hituav/scalebridge_lite0",
    ):
        assert cost(name) == stored[name], name


def test_enlarged_images_cost_more():
    """Four times the cells at twice the sides; box heads see as many proposals as before."""
    plain, enlarged = (cost(f"hituav/faster_rcnn_lite0_efpnbs_taught_rfla{end}") for end in ("", "_x2"))
    assert enlarged["params_m"] == plain["params_m"]
    assert 3 * plain["gmac"] < enlarged["gmac"] < 4 * plain["gmac"]


def test_efpnbs_costs_what_its_convolutions_cost():
    """800 px, P2 of 200²: 3×3 of 256 → 64 and of 256 → 256; that of the upsampled P5 is done on its 25²: 29.9 G."""
    stored = json.loads((ROOT / "results/zoo/cost.json").read_text())
    plain, ours = (stored[f"aitod/faster_rcnn_r50_{neck}_rfla_1x"] for neck in ("fpn", "efpnbs"))
    convolutions = 200**2 * 9 * 256 * (64 + 256)
    swapped = 25**2 * 256 * 9 * 64 + 64 * (75 * 75 * 200 + 200 * 75 * 200)
    assert ours["gmac"] - plain["gmac"] == pytest.approx((convolutions + swapped) / 1e9, abs=0.1)
    assert ours["params_m"] - plain["params_m"] == pytest.approx(0.951, abs=0.02)


def test_what_was_measured_comes_first(tmp_path):
    """A changed model is no measurement of its config, another schedule or start has a row of its own."""
    (tmp_path / "zoo").mkdir()
    for file in ("cost.json", "published.json"):
        (tmp_path / "zoo" / file).write_text("{}")
    runs = (
        (12.0, 9, []),
        (13.0, 9, ["train.seed=1"]),
        (13.0, 9, ["train.seed=1"]),
        (50.0, 9, ["model.roi_heads.num_classes=8"]),
        (15.0, 90, ["train.max_iter=90"]),
        (60.0, 9, ["dataloader.train.dataset.names=synthetic_train"]),
        (14.0, 9, ["train.init_checkpoint=output/quick_table/first_one_seed1/model_final.pth"]),
    )
    for seed, (ap, iterations, overrides) in enumerate(runs):
        record = {"config": "configs/quick/faster_rcnn_r18_fpn_rfla.py", "max_iter": iterations}
        record |= {"metrics": {"AP": ap}, "overrides": overrides}
        (tmp_path / f"a_seed{seed}.json").write_text(json.dumps(record))
    zoo = collect_rows(tmp_path)
    assert read_rows(_written(tmp_path / "zoo.json", rows_json(zoo))) == zoo
    assert [row.name for row in zoo[:3]] == ["quick/faster_rcnn_r18_fpn_rfla"] * 3
    rows = [row for row in markdown(zoo, ()).splitlines() if "quick/faster_rcnn_r18_fpn_rfla]" in row]
    assert [row.split("|")[3:7] for row in rows] == [
        [" 90 ", " 1 ", " 15.0 ", " – "],
        [" 9 ", " 1 ", " 14.0 ", " – "],
        [" 9 ", " 2 ", " 12.5 ± 0.5 ", " – "],
    ]
    assert "after `first_one`" in rows[1]
    assert all("50.0" not in row and "60.0" not in row for row in rows)


def _written(path, text):
    path.write_text(text)
    return path


def test_a_damaged_file_and_configs_that_it_lacks(tmp_path):
    with pytest.raises(D2TinyError, match=r"zoo.json is damaged: .*make_model_zoo"):
        read_rows(_written(tmp_path / "zoo.json", '[{"name": "quick/yolox_s", "measured": {"AP": 3}}]'))
    (first, *others) = read_rows(_written(tmp_path / "zoo.json", '[{"name": "quick/yolox_s", "file": "x", "gmac": 2}]'))
    assert (first.name, first.gmac) == ("quick/yolox_s", 2)
    assert {first.name, *(row.name for row in others)} == set(config_names())
    assert not any(row.has_figures for row in others)


def test_every_config_has_a_family():
    assert "other" not in {family_of(name) for name in config_names()}
    assert family_of("aitod/cascade_rcnn_r50_fpn_rfla_1x") == "Cascade R-CNN"


def test_the_table_of_the_site_has_every_row_and_what_its_script_filters_by():
    rows = read_rows()
    weights = read_manifest(shipped_folder()).weights
    text = html_table(rows, lambda row: f"files/configs/{row.file}", weights, lambda entry: f"{entry.name}.html")
    assert text.count("<tr data-") == len(rows)
    script = (ROOT / "docs" / "assets" / "zoo.js").read_text()
    for key in ("family", "dataset", "figures", "gmac"):
        assert f'name="{key}"' in text
        assert key in script
    best = next(row for row in rows if row.dataset == "hituav")
    cells = f"<td>–</td><td>{best.measured_text('AP')}</td><td>{best.measured_text('AP50')}</td>"
    assert f">{best.name}</a></td>{cells}" in text
    linked = [row for row in text.splitlines() if '<td><a href="thermal.html">thermal</a></td>' in row]
    [thermal] = [entry for entry in weights if entry.name == "thermal"]
    assert len(linked) == 1 and f"{thermal.config}<" in linked[0]
