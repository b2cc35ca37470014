"""What a training resumes from: broken checkpoints, lost pointers, folders of earlier trainings, stops."""

from __future__ import annotations

import json
import logging
import os
import signal

import pytest
import torch
from detectron2.utils.events import EventStorage

from d2tiny.cli.common import guarded
from d2tiny.cli.train import train_main
from d2tiny.config import load_config
from d2tiny.engine import hooks
from d2tiny.engine.checkpoint import TinyCheckpointer
from d2tiny.engine.ema import ModelEMA
from d2tiny.engine.run import run
from d2tiny.engine.trainer import Trainer
from d2tiny.utils.errors import CheckpointError
from d2tiny.utils.stop import Stopped, StopSignals
from tests.helpers.training import CONFIG, losses, settings


class Squares(torch.nn.Module):
    """Loss of a batch of nothing."""

    def __init__(self, size=3):
        super().__init__()
        self.part = torch.nn.Linear(size, 1)

    def forward(self, batch):
        return {"loss": self.part.weight.square().mean() + self.part.bias.square().mean()}


def training(folder, size=3, groups=1):
    """A trainer of two parameters with momentum and EMA, and its checkpointer."""
    model = Squares(size)
    parameters = list(model.parameters())
    parts = [{"params": parameters}] if groups == 1 else [{"params": [p]} for p in parameters]
    trainer = Trainer(model, torch.optim.SGD(parts, lr=0.1, momentum=0.9), seed=0, device="cpu")
    checkpointer = TinyCheckpointer(model, str(folder))
    checkpointer.add_checkpointable("trainer", trainer)
    checkpointer.add_checkpointable("ema", ModelEMA(model, 0.9))
    trainer.iter = 0
    return trainer, checkpointer


def step(trainer):
    trainer.set_data_iterator(iter([[]]))
    with EventStorage(trainer.iter) as trainer.storage:
        trainer.run_step()
    trainer.iter += 1


@pytest.fixture
def saved(tmp_path):
    """A folder with two checkpoints, of iterations 1 and 2."""
    trainer, checkpointer = training(tmp_path)
    for _ in range(2):
        step(trainer)
        checkpointer.save("model_last", keep_previous=True)
    return tmp_path


def resumed(folder, **kwargs):
    trainer, checkpointer = training(folder, **kwargs)
    assert checkpointer.has_checkpoint()
    checkpointer.resume()
    step(trainer)
    return trainer.iter - 1


def edit(path, change):
    content = torch.load(path)
    change(content)
    torch.save(content, path)


BROKEN = {
    "no optimizer": (lambda c: c["trainer"].pop("optimizer"), r"'trainer\.optimizer' is missing"),
    "no trainer": (lambda c: c.pop("trainer"), "'trainer' is missing: it holds weights, but no training"),
    "no EMA": (lambda c: c.pop("ema"), "'ema' is missing"),
    "part of the EMA": (lambda c: c["ema"]["average"].pop("part.bias"), r"'ema\.average\.part\.bias' is missing"),
    "iteration is a text": (lambda c: c["trainer"].update(iteration="2"), r"'trainer\.iteration' is '2', not a int"),
    "a negative iteration": (lambda c: c["trainer"].update(iteration=-5), "iteration -5"),
    "state is a list": (lambda c: c.update(trainer=[1]), "'trainer' is a list"),
    "other groups": (lambda c: c["trainer"]["optimizer"]["param_groups"].append({}), "has 2 entries, but the training"),
    "no lr": (lambda c: c["trainer"]["optimizer"]["param_groups"][0].pop("lr"), r"param_groups\.0\.lr' is missing"),
    "momentum of another shape": (
        lambda c: c["trainer"]["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(7)),
        r"'trainer\.optimizer\.state\.0\.momentum_buffer' has shape \(7,\)",
    ),
    "NaN momentum": (
        lambda c: c["trainer"]["optimizer"]["state"][0]["momentum_buffer"].fill_(float("nan")),
        "momentum_buffer' is NaN or infinite",
    ),
    "NaN average": (lambda c: c["ema"]["average"]["part.bias"].fill_(float("nan")), "NaN or infinite"),
    "NaN weights": (lambda c: c["model"]["part.bias"].fill_(float("nan")), r"first: part\.bias"),
    "a weight is missing": (lambda c: c["model"].pop("part.bias"), "1 tensors do not fit the model"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checkpoint_falls_back_to_the_one_before_and_says_so(saved, caplog, kind):
    change, words = BROKEN[kind]
    edit(saved / "model_last.pth", change)
    assert resumed(saved) == 1
    assert "Going on from the checkpoint before it" in caplog.text
    edit(saved / "model_previous.pth", change)
    with pytest.raises(CheckpointError, match=words) as caught:
        resumed(saved)
    assert "model_last.pth" in str(caught.value)
    assert "model_previous.pth" in str(caught.value)


@pytest.mark.parametrize("kwargs", [{"size": 5}, {"groups": 2}])
def test_another_config_is_refused(saved, kwargs):
    with pytest.raises(CheckpointError, match="training of another config"):
        resumed(saved, **kwargs)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half", b"\x80\x04garbage"])
def test_a_file_that_is_no_checkpoint_falls_back(saved, content):
    (saved / "model_last.pth").write_bytes(content)
    assert resumed(saved) == 1


@pytest.mark.parametrize("name", ["/etc/passwd", "x?y", "../model_last.pth", "", "gone.pth", "\0", "a" * 5000])
def test_a_pointer_elsewhere_is_not_followed(saved, caplog, name):
    (saved / "last_checkpoint").write_text(name)
    assert resumed(saved) == 2
    assert "no checkpoint of this folder" in caplog.text


@pytest.mark.parametrize("lost", [["last_checkpoint"], ["model_last.pth"], ["last_checkpoint", "model_last.pth"]])
def test_kills_between_the_files_lose_nothing(saved, lost):
    for name in lost:
        (saved / name).unlink()
    assert resumed(saved) == (1 if "model_last.pth" in lost else 2)


def test_older_checkpoints_resume(saved):
    """Entries that newer versions of torch add to the optimizer's groups may be missing."""
    edit(saved / "model_last.pth", lambda c: c["trainer"]["optimizer"]["param_groups"][0].pop("foreach"))
    assert resumed(saved) == 2


def test_a_full_disk_is_told_and_keeps_the_file(saved, monkeypatch):
    before = (saved / "model_last.pth").read_bytes()

    def full(data, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"model_last\.pth: cannot write.*No space left"):
        training(saved)[1].save("model_last", keep_previous=True)
    assert (saved / "model_last.pth").read_bytes() == before


# --- whole trainings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"hello", "list", "mmdet"])
def test_initial_weights_that_are_none(datasets, tmp_path, content, capsys):
    path = tmp_path / "x.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save([1, 2] if content == "list" else {"meta": {}, "state_dict": {"a": torch.zeros(1)}}, path)
    weights = f"train.init_checkpoint='{path}'"
    for more in ([], ["--eval-only"]):
        assert train_main(["--config-file", CONFIG, *more, *settings(tmp_path / "out", weights)]) == 2
        error = capsys.readouterr().err
        assert str(path) in error
        assert "Traceback" not in error


def test_resume_says_when_there_is_nothing_and_never_starts_over_weights(datasets, tmp_path, caplog):
    logging.getLogger("d2tiny").addHandler(caplog.handler)
    cfg = settings(tmp_path, "train.max_iter=1")
    run(load_config(CONFIG, cfg), resume=True)
    assert "holds no checkpoint yet; starting at iteration 0" in caplog.text
    (tmp_path / "model_last.pth").unlink()
    before = (tmp_path / "model_final.pth").read_bytes()
    with pytest.raises(CheckpointError, match=r"holds model_best.pth|holds model_final.pth"):
        run(load_config(CONFIG, cfg), resume=True)
    assert (tmp_path / "model_final.pth").read_bytes() == before


def test_an_earlier_training_that_is_half_moved_away_is_not_resumed(datasets, saved, caplog):
    """A start was killed between moving ``last_checkpoint`` and the weights; ``--resume`` goes on with that start."""
    out, hidden = saved, saved / ".previous_1"
    hidden.mkdir()
    (out / "last_checkpoint").replace(hidden / "last_checkpoint")
    (out / "config.yaml").write_text("model: {}\n")
    logging.getLogger("d2tiny").addHandler(caplog.handler)
    run(load_config(CONFIG, settings(out, "train.max_iter=1")), resume=True)
    assert "starting at iteration 0" in caplog.text
    moved = {path.name for path in (out / "previous_1").iterdir()}
    assert moved == {"last_checkpoint", "model_last.pth", "model_previous.pth", "config.yaml"}
    assert (out / "previous_1" / "config.yaml").read_text() == "model: {}\n" != (out / "config.yaml").read_text()
    assert not list(out.glob(".previous_*"))


@pytest.mark.slow
def test_a_half_line_of_metrics_swallows_no_record(datasets, tmp_path):
    run(load_config(CONFIG, settings(tmp_path, "train.max_iter=2")))
    path = tmp_path / "metrics.json"
    for end, kept in ((b'{"iteration": 1, "total_lo', 0), (b'{"iteration": 1}', 1)):
        lines = path.read_bytes().count(b"\n")
        path.write_bytes(path.read_bytes() + end)
        run(load_config(CONFIG, settings(tmp_path, f"train.max_iter={lines + 4}")), resume=True)
        for line in path.read_text().splitlines():
            json.loads(line)
        assert path.read_text().count('{"iteration": 1}') == kept


@pytest.mark.slow
def test_a_stop_loses_no_iteration_and_resumes_bit_equal(datasets, tmp_path, monkeypatch):
    common = ["train.max_iter=5", "train.checkpoint_period=100"]
    run(load_config(CONFIG, settings(tmp_path / "full", *common)))
    one = Trainer.run_step

    def signalled(self):
        if self.iter == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        one(self)

    monkeypatch.setattr(Trainer, "run_step", signalled)
    with pytest.raises(Stopped) as caught:
        run(load_config(CONFIG, settings(tmp_path / "cut", *common)))
    assert caught.value.exit_code == 143
    monkeypatch.setattr(Trainer, "run_step", one)
    assert torch.load(tmp_path / "cut" / "model_last.pth")["trainer"]["iteration"] == 2
    run(load_config(CONFIG, settings(tmp_path / "cut", *common)), resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "full")
    a, b = (torch.load(tmp_path / name / "model_final.pth")["model"] for name in ("full", "cut"))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("max_iter", [2, 4])
def test_a_stop_while_evaluating_evaluates_again(datasets, tmp_path, monkeypatch, max_iter):
    """Stopped in the evaluation after iteration 1, which is or is not the last."""
    cfg = settings(tmp_path, f"train.max_iter={max_iter}", "train.eval_period=2")
    inner = hooks.EvalAndSave._evaluate_and_keep_best

    def signalled(self, *args):
        os.kill(os.getpid(), signal.SIGINT)
        inner(self, *args)

    monkeypatch.setattr(hooks.EvalAndSave, "_evaluate_and_keep_best", signalled)
    with pytest.raises(Stopped):
        run(load_config(CONFIG, cfg))
    assert not (tmp_path / "model_best.pth").exists()
    monkeypatch.setattr(hooks.EvalAndSave, "_evaluate_and_keep_best", inner)
    with (tmp_path / "metrics.json").open("a") as file:
        file.write('{"iteration": 1, "eval/A')  # half of a record, which would swallow that of the evaluation
    run(load_config(CONFIG, cfg), resume=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    evaluated = {row["iteration"] for row in rows if "eval/AP" in row}
    assert evaluated == {1, max_iter - 1}
    assert (tmp_path / "model_final.pth").is_file()
    assert not torch.load(tmp_path / "model_last.pth")["trainer"]["hooks"]["EvalAndSave"]["pending"]


def test_signals():
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # the system sends it when the parent ends
        assert signals.number == signal.SIGTERM
        with pytest.raises(Stopped), signals.at_once():
            pass
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)  # the second time that somebody asks
    assert guarded(lambda: os.kill(os.getpid(), signal.SIGTERM)) == 143
    assert guarded(lambda: os.kill(os.getpid(), signal.SIGINT)) == 130
