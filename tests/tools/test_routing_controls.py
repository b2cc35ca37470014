"""The benchmark that tells what REM adds to a detector."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate

from d2tiny.config import save_config
from tests.helpers.benchmarks import value_in_benchmarks
from tests.helpers.models import config

CODE = """(lambda c: (lambda run, item: (
    [(control, run.detect(item, control)[0]["instances"].scores.tolist()) for control in run.controls],
    run.shares, (setattr(run.rem.scale, "data", run.rem.scale * 0),
    run.detect(item, "as trained")[0]["instances"].scores.tolist())[1]
))(c.ControlledRouting(Path(%r)), {"image": (torch.arange(3 * 64 * 96) %% 251).view(3, 64, 96).to(torch.uint8)})
)(routing_controls)"""


def test_each_control_changes_what_it_says(tmp_path):
    """Without the mixture the detector is the one with a scale of 0; each of the other controls is another detector."""
    torch.manual_seed(0)
    cfg = config("quick/dino_lite0_rem")
    save_config(cfg, tmp_path / "config.yaml")
    model = instantiate(cfg.model)
    with torch.no_grad():
        model.routing.scale.fill_(0.5)
        model.routing.gate.weight.normal_()
        model.routing.router[-1].weight.normal_()
    torch.save({"model": model.state_dict()}, tmp_path / "model_final.pth")
    code = CODE.replace("torch.", "routing_controls.torch.").replace("\n", " ")
    found, shares, without = value_in_benchmarks("routing_controls", code % str(tmp_path))
    scores = dict(found)
    assert list(scores)[:2] == ["as trained", "without the mixture"] and len(scores) == 8
    assert scores.pop("without the mixture") == pytest.approx(without, abs=1e-6)
    values = [without, *scores.values()]
    assert len({tuple(round(x, 6) for x in value) for value in values}) == len(values)
    assert len(shares) == 2 and len(shares[0]) == 4 and min(shares[0]) > 0.01 and max(shares[1]) == 0
