"""Two gloo processes on the CPU.

Starting processes costs more than what they compute, so one pair runs all jobs, and one training serves two tests.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from d2tiny import model_zoo
from d2tiny.cli.train import train_main
from d2tiny.compat import average_tensors, launch, wrap_ddp
from d2tiny.engine.accumulation import Accumulation
from d2tiny.engine.sync_norm import synchronise_norms
from d2tiny.engine.trainer import Trainer
from d2tiny.modeling.losses import DCLoss, SALoss
from d2tiny.utils.errors import D2TinyError
from d2tiny.utils.stop import Stopped, StopSignals
from tests.helpers import ROOT
from tests.helpers.images import item
from tests.helpers.models import small
from tests.helpers.processes import members, until
from tests.helpers.training import CONFIG, losses, settings

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("distributed")]  # one worker: the fixtures are shared

GRADIENTS = ["quick/yolox_s", "quick/yolo11_n", "quick/dino_r18_dgq"]
TRANSFORMERS = ["dino_r18", "scalebridge_r18"]


class Squares(torch.nn.Module):
    """Loss mean((w·x)²) of a batch of numbers."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("batch_mean", torch.zeros(1))

    def forward(self, batch):
        x = torch.tensor([item["x"] for item in batch])
        self.batch_mean.copy_(x.mean())
        return {"loss": (self.weight * x).square().mean()}


def step_on_own_data():
    """One SGD step; rank 0 sees x = 1, rank 1 sees x = 3."""
    model = Squares()
    ddp = wrap_ddp(model)
    trainer = Trainer(ddp, torch.optim.SGD(model.parameters(), lr=0.1), seed=0, device="cpu")
    trainer.set_data_iterator(iter([[{"x": 1.0 + 2 * comm.get_rank()}]]))
    with EventStorage(0) as trainer.storage:
        trainer.run_step()
    average_tensors(model.buffers())
    return [float(model.weight.detach()), float(model.batch_mean)]


def test_gradients_and_statistics_are_shared(answers):
    """d/dw (w·x)² = 2x² = 2 and 18; mean 10; w = 1 − 0.1·10 = 0 on both. Statistics: mean of 1 and 3."""
    first, second = answers("step")
    assert first == second == pytest.approx([0.0, 2.0], abs=1e-6)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


AREAS = ([16.0, 64.0], [256.0]), ([16.0, 64.0], []), ([], []), ([100.0], [100.0])


def share_statistics(stat_mode):
    """Squares as objects, split between the ranks; predictions are off by one px."""
    loss = SALoss(base="iou", beta=1.0, stat_mode=stat_mode)
    values = []
    for split in AREAS:
        side = torch.tensor(split[comm.get_rank()]).sqrt()
        target = torch.stack((side * 0, side * 0, side, side), dim=1)
        values.append(float(loss(target + 1, target, avg_factor=1.0)))
    return [values, {k: v.tolist() for k, v in loss.state_dict().items()}]


def off_by_one(side, weight):
    inter = (side - 1) ** 2
    return weight * (1 - inter / (2 * side**2 - inter))


@pytest.mark.parametrize("stat_mode", ["batch", "ema"])
def test_sal_weighs_over_all_processes(answers, stat_mode):
    """s = (A - 16) / (256 - 16) whichever rank has the object; a rank without objects does not stop the other."""
    (first, state), (second, other) = answers(f"sal {stat_mode}")
    ln = math.log
    assert first[0] == pytest.approx(off_by_one(4, ln(2)) + off_by_one(8, ln(2 - 48 / 240)), rel=1e-5)
    assert second[0] == pytest.approx(0.0, abs=1e-6)  # the largest object
    assert second[1] == first[2] == second[2] == 0
    if stat_mode == "batch":
        assert first[1] == pytest.approx(off_by_one(4, ln(2)), rel=1e-5)
        assert first[3] == second[3] == pytest.approx(off_by_one(10, ln(2)), rel=1e-5)
        return
    low, high = 16.0, 0.99 * 256 + 0.01 * 64  # batch 2; batch 3 is empty
    low, high = 0.99 * low + 1, 0.99 * high + 1
    assert state["area_range"] == other["area_range"] == pytest.approx([low, high], rel=1e-5)
    weight = ln(2 - (100 - low) / (high - low))
    assert first[3] == second[3] == pytest.approx(off_by_one(10, weight), rel=1e-5)


def fails():
    raise RuntimeError("something of ours")


def ends_by(number):
    """One process ends by a signal; the other waits, with the handlers of a training."""
    if comm.get_rank() == 1:
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    with StopSignals() as signals:
        deadline = time.monotonic() + 30
        while not signals.number and time.monotonic() < deadline:
            time.sleep(0.05)
    raise Stopped(signals.number)


def test_a_killed_process_is_told_and_a_stopped_one_stops_all():
    """Torch ends the other process by SIGTERM in both cases, which is not what happened in the first."""
    with pytest.raises(D2TinyError, match="SIGKILL"):
        launch(ends_by, 2, device="cpu", args=(signal.SIGKILL,))
    with pytest.raises(Stopped) as stopped:
        launch(ends_by, 2, device="cpu", args=(signal.SIGTERM,))
    assert stopped.value.exit_code == 143


def test_an_error_in_a_process_is_told():
    with pytest.raises(D2TinyError, match="something of ours"):
        launch(fails, 2, device="cpu", args=())


@pytest.fixture(scope="module")
def training(scenes, tmp_path_factory):
    """The folder of a training of two processes, with losses that share statistics and have parameters."""
    folder = tmp_path_factory.mktemp("training")
    head, rpn = "model.roi_heads.box_predictor.box_loss", "model.proposal_generator.box_loss"
    changes = [f"{head}=SALoss", f"{head}.stat_mode=ema", f"{rpn}=DCLoss", f"{rpn}.learnable=bounded"]
    changes += ["train.max_iter=2", "train.ema.enabled=true", "train.sync_bn=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(scenes.parent))
        assert train_main(["--config-file", CONFIG, "--num-gpus", "2", *settings(folder), *changes]) == 0
    return folder


def test_trains_and_evaluates_every_image_once(training):
    result = json.loads((training / "result.json").read_text())
    assert result["metrics"]["AP"] is not None
    assert sorted(losses(training)) == [0, 1]
    assert "3 images" in (training / "log.txt").read_text()


def test_losses_with_shared_statistics_train(training):
    """Parameters of a loss are in the optimizer, its statistics in the checkpoint and its average, no rank waits."""
    checkpoint = torch.load(training / "model_last.pth", weights_only=False)
    for weights in (checkpoint["model"], checkpoint["ema"]["average"]):
        low, high = weights["roi_heads.box_predictor.box_loss.area_range"].tolist()
        assert 0 < low < high
        kappa = weights["proposal_generator.box_loss.kappa"]
        assert float(kappa) != DCLoss(learnable="bounded").kappa.item(), "the optimizer must have moved it"


def test_mistakes_are_told_before_processes_start(datasets, tmp_path, capfd):
    assert train_main(["--config-file", CONFIG, "--num-gpus", "2", *settings(tmp_path), "train.max_itr=5"]) == 2
    text = capfd.readouterr().err
    assert "Did you mean 'max_iter'" in text
    assert "Traceback" not in text


TRAINING = """
import sys
from d2tiny.cli.train import train_main
if __name__ == "__main__":
    sys.exit(train_main(sys.argv[1:]))
"""


def started(folder):
    """Start a long training of two processes as a script, and wait for its first iterations."""
    (folder / "train.py").write_text(TRAINING)
    arguments = ["--config-file", CONFIG, "--num-gpus", "2", *settings(folder / "run", "train.max_iter=100000")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "text.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(folder / "train.py"), *arguments],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    until(lambda: len(metrics(folder)) >= 2 or process.poll() is not None, 300)
    assert process.poll() is None, (folder / "text.log").read_text()
    return process, arguments


def metrics(folder):
    path = folder / "run" / "metrics.json"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_process_outlives_the_parent(datasets, tmp_path, number, code):
    """The step is finished and saved; all processes are gone within 20 s. A second training meanwhile is refused."""
    process, arguments = started(tmp_path)
    try:
        second = [*arguments[:3], "1", *arguments[4:]]
        refused = subprocess.run(
            [sys.executable, str(tmp_path / "train.py"), *second],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert refused.returncode == 2
        assert "another run writes to this folder (process" in refused.stderr
        process.send_signal(number)
        assert process.wait(20) == code
        until(lambda: not members(process.pid), 20)
        assert not members(process.pid)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    checkpoint = torch.load(tmp_path / "run" / "model_last.pth")
    assert checkpoint["trainer"]["iteration"] == max(losses(tmp_path / "run"))
    assert not [path for path in (tmp_path / "run").glob(".*") if path.name != ".training.lock"]


def gradient_of_a_share(name):
    """Return the gradient norm of a head and the number of queries; each process has its share of four images."""
    torch.manual_seed(0)
    cfg = model_zoo.get_config(name).model
    if cfg.get("density") is not None:
        cfg.denoising = None  # its noise would differ
        cfg.density.update(buckets=[10, 20, 30, 60], thresholds=[2, 3, 5], train_queries=0)
    model = instantiate(cfg).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    images = [item([[8 + 6 * i + 5 * j, 9, 20 + 7 * i + 5 * j, 24] for j in range(2**i)], (64, 64)) for i in range(4)]
    for i, one in enumerate(images):
        one["image"] = torch.full_like(one["image"], 40 * i)
    world, rank = comm.get_world_size(), comm.get_rank()
    ddp = wrap_ddp(model)
    with EventStorage(0) as storage:
        total = sum(ddp(images[rank * 4 // world : (rank + 1) * 4 // world]).values())
        queries = storage.latest().get("queries", (0.0, 0))[0]
    total.backward()
    parts = [model.decoder, model.selection, model.density] if name.endswith("dgq") else [model.head]
    norm = torch.stack([p.grad.norm() for part in parts for p in part.parameters() if p.requires_grad]).norm()
    return [float(norm), queries]


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_do_not_depend_on_the_number_of_processes(answers, name):
    """Images with 1, 2, 4 and 8 objects; with DGQ the processes decode different numbers of queries."""
    alone = gradient_of_a_share(name)
    first, second = answers(f"gradient {name}")
    assert first[0] == second[0] == pytest.approx(alone[0], rel=1e-3)
    if name.endswith("dgq"):
        assert (first[1], second[1]) == (15, 45)


def steps_with_an_empty_rank(name):
    """Take two steps, in which the second process has no object."""
    boxes = [[10, 10, 18, 17]] if comm.get_rank() == 0 else []
    model = small(name).train()
    trainer = Trainer(wrap_ddp(model), torch.optim.SGD(model.parameters(), lr=1e-3), seed=0, device="cpu")
    trainer.set_data_iterator(iter([[item(boxes)]] * 2))
    with EventStorage(0) as trainer.storage:
        trainer.run_step()
        trainer.run_step()
        latest = trainer.storage.latest()
    weights = float(sum(p.detach().double().abs().sum() for p in model.parameters()))
    return [weights, latest["loss_bbox_dn"][0] if comm.is_main_process() else None]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_process_without_objects_stops_no_other(answers, name):
    first, second = answers(f"empty {name}")
    assert first[0] == second[0]
    assert first[1] > 0


class Normed(torch.nn.Module):
    """A convolution and a batch norm; a loss that is a mean over a batch of numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.part = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 1, bias=False), torch.nn.BatchNorm2d(3), torch.nn.SiLU())

    def forward(self, batch):
        x = torch.tensor([item["x"] for item in batch]).view(-1, 1, 1, 1) * torch.linspace(1, 2, 6).view(1, 1, 2, 3)
        return {"loss": (self.part(x) * torch.arange(3.0).view(3, 1, 1)).square().mean()}


NUMBERS = [1.0, -2.0, 0.5, 7.0, 3.0, 4.0, -1.0, 2.5]


def normed_steps():
    """Return the weights and statistics after two steps of two iterations each, on a share of the numbers."""
    world, rank = comm.get_world_size(), comm.get_rank()
    model = synchronise_norms(Normed(), "cpu") if world > 1 else Normed()
    steps = Accumulation(nominal_batch_size=4, batch_size=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = Trainer(wrap_ddp(model), optimizer, seed=0, device="cpu", accumulation=steps)
    pairs = [[{"x": x} for x in NUMBERS[i : i + 2]] for i in range(0, len(NUMBERS), 2)]
    trainer.set_data_iterator(iter([pair[rank * 2 // world : (rank + 1) * 2 // world] for pair in pairs]))
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(len(pairs)):
            trainer.run_step()
    return [*(p.tolist() for p in model.parameters()), model.part[1].running_mean.tolist()]


def test_synchronised_norms_and_accumulated_gradients_are_those_of_one_process(answers):
    """Two processes with one image each an iteration, and one with both."""
    first, second = answers("norms and steps")
    assert first == second
    for found, alone in zip(first, normed_steps(), strict=True):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(alone), rtol=1e-4, atol=1e-5)


JOBS = {
    "step": step_on_own_data,
    "norms and steps": normed_steps,
    **{f"sal {mode}": partial(share_statistics, mode) for mode in ("batch", "ema")},
    **{f"gradient {name}": partial(gradient_of_a_share, name) for name in GRADIENTS},
    **{f"empty {name}": partial(steps_with_an_empty_rank, name) for name in TRANSFORMERS},
}


def run_jobs(folder):
    torch.set_num_threads(1)
    answers = {name: job() for name, job in JOBS.items()}
    (folder / f"{comm.get_rank()}.json").write_text(json.dumps(answers))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What each process answers to a job of ``JOBS``."""
    folder = tmp_path_factory.mktemp("jobs")
    launch(run_jobs, 2, device="cpu", args=(folder,))
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]
    return lambda name: [answers[name] for answers in found]
