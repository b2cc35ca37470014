"""Two gloo processes on the CPU."""

from __future__ import annotations

import json
import os

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from d2tiny.cli import train_main
from d2tiny.compat import average_tensors, launch, wrap_ddp
from d2tiny.engine.trainer import Trainer
from d2tiny.utils.errors import D2TinyError
from tests.engine.test_training import CONFIG, losses, settings


class Squares(torch.nn.Module):
    """Loss mean((w·x)²) of a batch of numbers."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, batch):
        x = torch.tensor([item["x"] for item in batch])
        self.seen.copy_(x.mean())
        return {"loss": (self.weight * x).square().mean()}


def step_on_own_data(folder):
    """One SGD step; rank 0 sees x = 1, rank 1 sees x = 3."""
    model = Squares()
    ddp = wrap_ddp(model)
    trainer = Trainer(ddp, torch.optim.SGD(model.parameters(), lr=0.1), seed=0, device="cpu")
    trainer.feed(iter([[{"x": 1.0 + 2 * comm.get_rank()}]]))
    with EventStorage(0) as trainer.storage:
        trainer.run_step()
    average_tensors(model.buffers())
    (folder / f"{comm.get_rank()}.json").write_text(json.dumps([float(model.weight.detach()), float(model.seen)]))


def test_gradients_and_statistics_are_shared(tmp_path):
    """d/dw (w·x)² = 2x² = 2 and 18; mean 10; w = 1 − 0.1·10 = 0 on both. Statistics: mean of 1 and 3."""
    launch(step_on_own_data, 2, device="cpu", args=(tmp_path,))
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert results[0] == results[1] == pytest.approx([0.0, 2.0], abs=1e-6)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def fails():
    raise RuntimeError("something of ours")


def test_an_error_in_a_process_is_told():
    with pytest.raises(D2TinyError, match="something of ours"):
        launch(fails, 2, device="cpu", args=())


def test_trains_and_evaluates_every_image_once(datasets, tmp_path):
    code = train_main(["--config-file", CONFIG, "--num-gpus", "2", *settings(tmp_path, "train.max_iter=2")])
    assert code == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metrics"]["AP"] is not None
    assert sorted(losses(tmp_path)) == [0, 1]
    assert "3 images" in (tmp_path / "log.txt").read_text()


def test_mistakes_are_told_before_processes_start(datasets, tmp_path, capfd):
    assert train_main(["--config-file", CONFIG, "--num-gpus", "2", *settings(tmp_path), "train.max_itr=5"]) == 2
    text = capfd.readouterr().err
    assert "Did you mean 'max_iter'" in text
    assert "Traceback" not in text
