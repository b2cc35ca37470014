"""How long a training may be so that it ends in time on the processor at hand: measured, then chosen, with reasons."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig

from d2tiny.engine.checkpoint import TinyCheckpointer
from d2tiny.engine.run import build, build_model, build_trainer
from d2tiny.utils.env import resolve_device

__all__ = ["SIZES", "Pace", "Plan", "Size", "choose_plan", "measure_pace"]

MOST = 650  # iterations; more gain little on drawn scenes
FEWEST = 250  # with fewer, smaller batches learn more in the same time
_GAIN = 0.95  # bfloat16, or one thread, is taken where a step takes less than this share of one without
_SLOW = 1.0  # seconds of a step from which on one thread is tried: several wait for each other on busy processors
_COMPILED = 3.0  # what is compiled after the training takes up to so many times what its first step compiles
_AFTER = 20.0  # seconds of what follows the training and is not the detector's work: drawing, pages
_SAFETY = 1.15  # other programs, warm processors


@dataclass(frozen=True)
class Size:
    """What one iteration looks at.

    Attributes:
        batch_size: images of a batch.
        crop: side of a crop in px.
        bf16: compute in bfloat16.
        threads: of the processor; 0 leaves the choice to PyTorch.
    """

    batch_size: int
    crop: int
    bf16: bool = False
    threads: int = 0

    @property
    def pixels(self) -> int:
        """Return the px of a batch."""
        return self.batch_size * self.crop**2

    def __str__(self) -> str:
        return f"batches of {self.batch_size} crops of {self.crop} px"


SIZES = (Size(8, 160), Size(4, 160), Size(4, 128), Size(2, 128))


@dataclass(frozen=True)
class Pace:
    """How fast a training is.

    Attributes:
        step: seconds of an iteration.
        first: seconds of the first one, in which kernels are compiled.
    """

    step: float
    first: float


@dataclass(frozen=True)
class Plan:
    """A training that ends in time.

    Attributes:
        size: what an iteration looks at.
        iterations: how many there are.
        step: seconds of one, as measured.
        rest: seconds that what follows the training is expected to take.
        reasons: sentences that say what was chosen, and why.
    """

    size: Size
    iterations: int
    step: float
    rest: float
    reasons: tuple[str, ...]


def measure_pace(cfg: DictConfig, *, warmup: int = 2, steps: int = 3, patience: float = 15.0) -> Pace:
    """Run the first iterations of a training, without changing or writing anything.

    Args:
        cfg: a config as :func:`d2tiny.engine.run.run` takes it.
        warmup: iterations that do not count.
        steps: iterations of which the median counts.
        patience: seconds after which one iteration after the first suffices.

    Raises:
        D2TinyError: as of a training.
    """
    cfg = cfg.copy()
    cfg.optimizer.lr = 0.0  # the weights stay as they are, so that no step can go astray
    device = resolve_device(cfg.train.device)
    torch.manual_seed(int(cfg.train.seed))
    threads = torch.get_num_threads()
    torch.set_num_threads(cfg.train.num_threads or threads)
    try:
        seconds = _seconds_of_steps(cfg, device, warmup + steps, patience)
    finally:
        torch.set_num_threads(threads)
    return Pace(statistics.median(seconds[warmup:] or seconds[1:]), seconds[0])


def _seconds_of_steps(cfg: DictConfig, device: str, steps: int, patience: float) -> list[float]:
    """Return the seconds of each of the first iterations, two at least."""
    model = build_model(cfg, device)
    TinyCheckpointer(model).load(cfg.train.init_checkpoint, checkpointables=[])
    trainer = build_trainer(cfg, model, device)
    trainer.set_data_iterator(build(cfg, "dataloader.train").iter_from(0))
    seconds: list[float] = []
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(steps):
            start = time.perf_counter()
            trainer.run_step()
            seconds.append(time.perf_counter() - start)
            if len(seconds) > 1 and sum(seconds) > patience:
                break
    return seconds


def choose_plan(
    measure: Callable[[Size], Pace],
    time_left: Callable[[], float],
    *,
    fast_bf16: bool,
    pixels_after: float,
    sizes: Sequence[Size] = SIZES,
) -> Plan:
    """Choose threads, precision, size and number of the iterations of a training that ends in time.

    Threads and precision are measured at the first size. Then sizes that may fit are tried from large to small until
    one leaves time for ``FEWEST`` iterations; the last is taken whatever it leaves.

    Args:
        measure: runs some iterations of a size.
        time_left: seconds until all must be done, from now.
        fast_bf16: whether the device has instructions for bfloat16; it is not tried elsewhere.
        pixels_after: px that the detector looks at after the training.
        sizes: from large to small.

    Returns:
        The plan; it has one iteration at least, also where no time is left.
    """
    size = sizes[0]
    pace = measure(size)
    compiled = max(0.0, pace.first - pace.step)
    reasons = []
    if pace.step > _SLOW:
        size, pace, sentence = _faster(measure, size, pace, replace(size, threads=1), "one thread", "several")
        reasons.append(f"Threads: {sentence}.")
    precision = "float32, as this device has no instructions for bfloat16"
    if fast_bf16:
        size, pace, precision = _faster(measure, size, pace, replace(size, bf16=True), "bfloat16", "float32")
    reasons.append(f"Precision: {precision}.")
    # A prediction is a third of an iteration: there is no backward pass, which takes twice as long.
    rest = _AFTER + _COMPILED * compiled + pixels_after / size.pixels * pace.step / 3
    left = time_left()
    fit = _fitting(left - rest, pace.step)
    for smaller in sizes[1:]:
        # The time of an iteration falls no faster than its px: sizes that cannot fit need not be measured.
        at_best = _fitting(left - rest, pace.step * smaller.pixels / size.pixels)
        if fit >= FEWEST or (at_best < FEWEST and smaller != sizes[-1]):
            continue
        reasons.append(f"An iteration of {size} takes {pace.step:.2f} s: too few fit, so they become smaller.")
        size = replace(smaller, bf16=size.bf16, threads=size.threads)
        pace = measure(size)
        left = time_left()
        fit = _fitting(left - rest, pace.step)
    iterations = min(MOST, max(1, fit))
    reasons.append(
        f"An iteration of {size} takes {pace.step:.2f} s; {left:.0f} s are left, about {rest:.0f} s of them for what "
        f"follows the training: {iterations} iterations"
        + (f", as more than {MOST} gain little." if fit > MOST else ".")
    )
    return Plan(size, iterations, pace.step, rest, tuple(reasons))


def _fitting(seconds: float, step: float) -> int:
    """Return how many iterations fit into a time."""
    return int(seconds / (_SAFETY * step))


def _faster(
    measure: Callable[[Size], Pace], size: Size, pace: Pace, other: Size, name_of_other: str, name: str
) -> tuple[Size, Pace, str]:
    """Return the faster of two, which need be worth it for the other, and what was found."""
    tried = measure(other)
    if tried.step < _GAIN * pace.step:
        return (
            other,
            tried,
            f"{name_of_other}, {tried.step:.2f} s an iteration and not {pace.step:.2f} s as with {name}",
        )
    return size, pace, f"{name}, {pace.step:.2f} s an iteration; {name_of_other} gains nothing ({tried.step:.2f} s)"
