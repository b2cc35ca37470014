"""Mixed precision has one door, which says where it is slow."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from d2tiny import model_zoo
from d2tiny.engine.trainer import Trainer
from d2tiny.inference.predictor import TiledPredictor
from d2tiny.utils import precision
from d2tiny.utils.errors import ConfigError
from tests.helpers import ROOT


@pytest.fixture(autouse=True)
def slow(monkeypatch):
    """A processor without bfloat16, and nothing said so far."""
    monkeypatch.setattr("d2tiny.utils.env.has_fast_bf16", lambda device: False)
    monkeypatch.setattr(precision, "_WARNED", set())


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if "several times as long" in r.getMessage()]


def test_it_is_said_once_for_each_setting(caplog):
    for setting in ("--bf16", "train.amp.enabled=true", "--bf16"):
        with precision.mixed_precision("cpu", torch.bfloat16, setting):
            assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
    first, second = warnings(caplog)
    assert first.startswith("--bf16: bfloat16 was asked for, but this processor has no instructions for it")
    assert second.startswith("train.amp.enabled=true: ")


def test_float32_is_not_slow(caplog):
    with precision.mixed_precision("cpu", None, "--bf16"):
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32
    precision.warn_of_slow_precision("cpu", None, "--bf16")
    assert not warnings(caplog)


def test_a_trainer_of_ones_own_says_it(caplog):
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

        def forward(self, data):
            product = data[0]["image"] @ self.weight
            assert product.dtype == torch.bfloat16
            return {"loss": product.float().sum()}

    model = Loss()
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), 0.1), seed=0, device="cpu", amp_dtype="bfloat16")
    trainer.set_data_iterator(iter([[{"image": torch.ones(1, 2)}]] * 2))
    trainer.train(0, 2)
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("bf16", [True, False])
def test_a_predictor_says_it_before_the_first_image(bf16, caplog):
    TiledPredictor(model_zoo.get_cfg("quick/faster_rcnn_r18_fpn_rfla", "", device="cpu"), bf16=bf16)
    assert len(warnings(caplog)) == bf16


def test_dtypes():
    assert precision.amp_dtype(None, "cpu") is None
    assert precision.amp_dtype("float16", "cuda") is torch.float16
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        precision.amp_dtype("float16", "cpu")
    with pytest.raises(ConfigError, match=r"one of \['bfloat16', 'float16'\], got 'half'"):
        precision.amp_dtype("half", "cpu")


def test_nobody_goes_past_the_door():
    """`torch.autocast` that is not merely turned off is entered in one file."""
    wrong = []
    for folder in ("d2tiny", "tools", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            calls = re.findall(r"(?:torch|amp)\.autocast\(.*", path.read_text())
            wrong += [str(path) for call in calls if "enabled=False" not in call and path.name != "precision.py"]
    assert not wrong, "use d2tiny.utils.precision.mixed_precision"
