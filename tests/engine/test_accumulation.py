"""Gradient accumulation: which iterations make a step, of what, and resuming in the middle of one."""

from __future__ import annotations

import warnings

import pytest
import torch
from detectron2.utils.events import EventStorage

from d2tiny.config import load_config
from d2tiny.engine.accumulation import Accumulation
from d2tiny.engine.checkpoint import TinyCheckpointer
from d2tiny.engine.ema import ModelEMA
from d2tiny.engine.hooks import EMAHook
from d2tiny.engine.run import run
from d2tiny.engine.trainer import Trainer
from d2tiny.utils.errors import CheckpointError, ConfigError
from tests.helpers.training import CONFIG, losses, settings


class Line(torch.nn.Module):
    """Loss w·x + b²/2 of numbers x: gradients x and b; the mean of a batch, or its sum."""

    def __init__(self, multiply=False):
        super().__init__()
        self.w, self.b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.ones(1))
        self.multiply = multiply

    def forward(self, batch):
        loss = (self.w * torch.tensor([one["x"] for one in batch])).mean() + self.b.square().sum() / 2
        return {"loss": loss * (len(batch) if self.multiply else 1)}


def trained(batches, *, stop=None, resume=None, folder=None, multiply=False, momentum=0.9, clip_norm=0.0, **changes):
    """Train on batches; with ``stop`` save after so many, with ``resume`` go on from there; return weights and EMA."""
    model = Line(multiply)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    steps = Accumulation(batch_size=len(batches[0]), **changes)
    trainer = Trainer(model, optimizer, seed=0, device="cpu", clip_norm=clip_norm, accumulation=steps)
    ema = ModelEMA(model, 0.9)
    trainer.register_hooks([EMAHook(ema)])
    start = 0
    checkpointer = TinyCheckpointer(model, str(folder)) if folder else None
    if checkpointer:
        checkpointer.add_checkpointable("trainer", trainer)
        checkpointer.add_checkpointable("ema", ema)
        if resume:
            checkpointer.resume()
            start = trainer.iter + 1
    trainer.max_iter = len(batches)
    trainer.set_data_iterator(iter([[{"x": x} for x in batch] for batch in batches[start:]]))
    with EventStorage(start) as trainer.storage:
        for trainer.iter in range(start, stop or len(batches)):
            trainer.run_step()
            trainer.after_step()
    if checkpointer and stop:
        checkpointer.save("model_last")
    return {"weights": [p.detach().clone() for p in model.parameters()], "updates": ema.updates, **ema.average}


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a["weights"], b["weights"], strict=True))


def test_number_of_iterations_by_hand():
    """64 images in batches of 16: 1 at the start, 4 after the warm-up of 12, (1 + 3·i/12) rounded between."""
    steps = Accumulation(nominal_batch_size=64, batch_size=16, warmup_iters=12)
    assert [steps.iterations(i) for i in range(14)] == [1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4]
    assert steps.images == 64
    assert Accumulation().iterations(5) == 1
    assert Accumulation(nominal_batch_size=64, batch_size=128).iterations(5) == 1
    assert Accumulation(nominal_batch_size=64, batch_size=24).images == 72


BATCHES = [[1.0, 2.0], [3.0, 5.0], [-1.0, 4.0], [2.0, 2.0], [0.5, 1.0], [7.0, -2.0]]
PAIRS = [a + b for a, b in zip(BATCHES[::2], BATCHES[1::2], strict=True)]


@pytest.mark.parametrize("clip_norm", [0.0, 1.5])
def test_the_mean_is_what_a_larger_batch_does(clip_norm):
    once = trained(PAIRS, clip_norm=clip_norm)
    twice = trained(BATCHES, nominal_batch_size=4, clip_norm=clip_norm)
    torch.testing.assert_close(once["weights"], twice["weights"])
    assert once["updates"] == twice["updates"] == 3
    torch.testing.assert_close(once["w"], twice["w"])
    assert not equal(twice, trained(BATCHES))


def test_the_sum_is_what_losses_multiplied_by_the_images_do():
    once = trained(PAIRS, multiply=True, momentum=0.0)
    twice = trained(BATCHES, multiply=True, momentum=0.0, nominal_batch_size=4, reduction="sum")
    torch.testing.assert_close(once["weights"], twice["weights"])


def test_a_step_by_hand_and_the_rest_at_the_end():
    """w: three batches with means 1, 2, 3 and rate 0.1; two of them are a step, the last is one by itself."""
    batches = [[1.0], [2.0], [3.0]]
    found = trained(batches, momentum=0.0, nominal_batch_size=2, reduction="sum")
    assert float(found["weights"][0]) == pytest.approx(-0.1 * (1 + 2) - 0.1 * 3)
    assert float(found["weights"][1]) == pytest.approx((1 - 0.1 * 2) * 0.9)
    found = trained(batches, momentum=0.0, nominal_batch_size=2)
    assert float(found["weights"][0]) == pytest.approx(-0.1 * 1.5 - 0.1 * 3)
    assert found["updates"] == 2


@pytest.mark.parametrize("stop", range(1, 6))
@pytest.mark.parametrize("changes", [{"warmup_iters": 3, "reduction": "sum"}, {"reduction": "mean"}])
def test_resuming_in_the_middle_is_bit_equal(tmp_path, stop, changes):
    changes = {**changes, "nominal_batch_size": 6, "clip_norm": 2.0}
    full = trained(BATCHES, **changes)
    trained(BATCHES, stop=stop, folder=tmp_path, **changes)
    cut = trained(BATCHES, resume=True, folder=tmp_path, **changes)
    assert equal(full, cut)
    assert full["updates"] == cut["updates"]
    assert torch.equal(full["w"], cut["w"])


def edited(folder, change):
    content = torch.load(folder / "model_last.pth")
    change(content["trainer"])
    torch.save(content, folder / "model_last.pth")


def test_checkpoints_of_before_have_no_gradients(tmp_path):
    trained(BATCHES, stop=2, folder=tmp_path)
    edited(tmp_path, lambda t: (t.pop("gradients"), t.pop("accumulated")))
    assert equal(trained(BATCHES, resume=True, folder=tmp_path), trained(BATCHES))


BROKEN = {
    "gone": (lambda t: t.update(gradients={}), "'trainer.accumulated' is 1, with 0 gradients"),
    "too many": (lambda t: t.update(accumulated=0), "'trainer.accumulated' is 0, with 2 gradients"),
    "of another model": (lambda t: t["gradients"].update(v=torch.zeros(1)), r"'trainer\.gradients\.v' is not of"),
    "of another shape": (lambda t: t["gradients"].update(w=torch.zeros(3)), r"'trainer\.gradients\.w' is not of"),
    "text": (lambda t: t["gradients"].update(w="1"), r"'trainer\.gradients\.w' is not of"),
    "NaN": (lambda t: t["gradients"]["w"].fill_(float("nan")), "'trainer.gradients.w' is NaN"),
    "a text": (lambda t: t.update(accumulated="1"), "'trainer.accumulated' is '1', not a int"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_gradients_are_told(tmp_path, kind):
    trained(BATCHES, stop=1, folder=tmp_path, nominal_batch_size=6)
    change, words = BROKEN[kind]
    edited(tmp_path, change)
    with pytest.raises(CheckpointError, match=words):
        trained(BATCHES, resume=True, folder=tmp_path, nominal_batch_size=6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nominal_batch_size": -1}, "nominal_batch_size >= 0"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"warmup_iters": -3}, "warmup_iters >= 0"),
        ({"reduction": "summ"}, "Did you mean 'sum'"),
    ],
)
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Accumulation(**changes)


def test_a_whole_training_accumulates_and_resumes(datasets, tmp_path, monkeypatch):
    """Batches of 2, steps of 6; stopped after iteration 3, in the middle of the second step."""
    with pytest.raises(ConfigError, match=r"train\.accumulate: Accumulation: reduction is 'max'"):
        run(load_config(CONFIG, settings(tmp_path / "bad", "train.accumulate.reduction=max")))
    common = ["train.max_iter=7", "train.checkpoint_period=4", "train.accumulate.nominal_batch_size=6"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Detected call")
        run(load_config(CONFIG, settings(tmp_path / "full", *common)))
    step = Trainer.run_step

    def dies(self):
        if self.iter == 5:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "run_step", dies)
        run(load_config(CONFIG, settings(tmp_path / "cut", *common)))
    assert torch.load(tmp_path / "cut" / "model_last.pth")["trainer"]["accumulated"] == 1
    run(load_config(CONFIG, settings(tmp_path / "cut", *common)), resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "full")
    a, b = (torch.load(tmp_path / name / "model_final.pth")["model"] for name in ("full", "cut"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert losses(tmp_path / "full")[1] != losses(tmp_path / "full")[0]
