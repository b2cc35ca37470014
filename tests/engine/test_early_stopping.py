"""Trainings that end before their last iteration; norms that are synchronised."""

from __future__ import annotations

import logging

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
from torch import nn

from d2tiny.config import load_config
from d2tiny.engine.run import Evaluation, run
from d2tiny.engine.sync_norm import synchronise_norms
from d2tiny.utils.errors import ConfigError
from tests.helpers.training import CONFIG, losses, settings

COMMON = ["train.max_iter=12", "train.eval_period=2", "train.early_stopping=2"]


def metrics(monkeypatch, values):
    """Let evaluations have these APs, one after the other."""
    values = iter(values)
    monkeypatch.setattr(Evaluation, "__call__", lambda self, model: {"AP": next(values)})


def test_two_evaluations_without_a_better_ap_end_the_training(datasets, tmp_path, monkeypatch, caplog):
    """AP 1, 3, 2, 3 after iterations 1, 3, 5, 7: an equal one is no better. A resumed training is over too."""
    logging.getLogger("d2tiny").addHandler(caplog.handler)
    metrics(monkeypatch, [1.0, 3.0, 2.0, 3.0, 9.0])
    found = run(load_config(CONFIG, settings(tmp_path, *COMMON)))
    assert found == {"AP": 3.0}
    assert sorted(losses(tmp_path)) == list(range(8))
    assert (
        "Stopped after iteration 7: 2 evaluations in a row were no better than AP 3.00 after iteration 3" in caplog.text
    )
    final, last = (torch.load(tmp_path / f"model_{name}.pth")["model"] for name in ("final", "last"))
    best = torch.load(tmp_path / "model_best.pth")
    assert set(final) == set(last) == set(best["model"])
    assert (tmp_path / "result.json").is_file()
    assert run(load_config(CONFIG, settings(tmp_path, *COMMON)), resume=True) == {"AP": 9.0}
    assert sorted(losses(tmp_path)) == list(range(8))


def test_more_patience_goes_on_where_it_ended(datasets, tmp_path, monkeypatch):
    metrics(monkeypatch, [3.0, 2.0, 1.0, 4.0, 5.0, 6.0])
    run(load_config(CONFIG, settings(tmp_path, *COMMON)))
    assert max(losses(tmp_path)) == 5
    assert run(load_config(CONFIG, settings(tmp_path, *COMMON, "train.early_stopping=3")), resume=True) == {"AP": 6.0}
    assert sorted(losses(tmp_path)) == list(range(12))


@pytest.mark.parametrize("changes", [["train.eval_period=0"], ["train.early_stopping=-1"]])
def test_early_stopping_needs_evaluations(datasets, tmp_path, changes):
    with pytest.raises(ConfigError, match=r"train\.early_stopping=.*train\.eval_period above 0"):
        run(load_config(CONFIG, settings(tmp_path, *COMMON, *changes)))


def test_norms_are_replaced_and_nothing_else():
    shared = nn.BatchNorm2d(4)
    shared.weight.requires_grad = False
    model = nn.ModuleDict(
        {"a": nn.Sequential(nn.Conv2d(3, 4, 1), shared), "b": nn.Sequential(shared, nn.GroupNorm(2, 4))}
    )
    model["c"] = FrozenBatchNorm2d(4)
    model["a"](torch.randn(2, 3, 4, 4))
    model["a"].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    norms = synchronise_norms(model, "cpu")
    assert norms is model
    assert norms["a"][1] is norms["b"][0]
    assert isinstance(norms["a"][1], NaiveSyncBatchNorm)
    assert isinstance(norms["b"][1], nn.GroupNorm)
    assert isinstance(norms["c"], FrozenBatchNorm2d)
    assert not norms["a"][1].training
    assert not norms["a"][1].weight.requires_grad
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
