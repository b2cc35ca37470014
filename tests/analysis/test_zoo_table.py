"""MODEL_ZOO.md is what its generator prints."""

from __future__ import annotations

import json

import pytest

from d2tiny import model_zoo
from d2tiny.analysis.cost import cost
from d2tiny.analysis.zoo_table import markdown
from tests.helpers import ROOT


def test_the_file_is_up_to_date():
    """Run `python tools/make_model_zoo.py` when this fails."""
    assert (ROOT / "MODEL_ZOO.md").read_text() == markdown(ROOT / "results")


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
    rows = [row for row in markdown(tmp_path).splitlines() if "quick/faster_rcnn_r18_fpn_rfla]" in row]
    assert [row.split("|")[2:6] for row in rows] == [
        [" 90 ", " 1 ", " 15.0 ", " – "],
        [" 9 ", " 1 ", " 14.0 ", " – "],
        [" 9 ", " 2 ", " 12.5 ± 0.5 ", " – "],
    ]
    assert "after `first_one`" in rows[1]
    assert all("50.0" not in row and "60.0" not in row for row in rows)
