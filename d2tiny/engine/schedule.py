"""Learning-rate schedules, as factors of the optimizer's learning rate."""

from __future__ import annotations

from collections.abc import Sequence

from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)

__all__ = ["warmup_cosine", "warmup_linear", "warmup_multistep"]


class _Warmup(ParamScheduler):
    """Precede a schedule with a warm-up that starts at ``factor`` times its first value and grows as t^power."""

    def __init__(self, scheduler: ParamScheduler, warmup_fraction: float, factor: float, power: float) -> None:
        self._scheduler, self._warmup_fraction, self._factor, self._power = scheduler, warmup_fraction, factor, power

    def __call__(self, where: float) -> float:
        if where >= self._warmup_fraction:
            return float(self._scheduler(where))
        start, end = self._factor * self._scheduler(0.0), self._scheduler(self._warmup_fraction)
        return float(start + (end - start) * (where / self._warmup_fraction) ** self._power)


class _FlatEnd(ParamScheduler):
    """Compress a schedule into the first part of the training and hold its last value for the rest."""

    def __init__(self, scheduler: ParamScheduler, flat_fraction: float) -> None:
        self._scheduler, self._decay_fraction = scheduler, 1 - flat_fraction

    def __call__(self, where: float) -> float:
        return float(self._scheduler(min(where / self._decay_fraction, 1.0)))


def _with_warmup(
    scheduler: ParamScheduler, max_iter: int, warmup_iters: int, warmup_factor: float, power: float = 1.0
) -> ParamScheduler:
    if max_iter < 1 or warmup_iters < 0 or power <= 0:
        raise ValueError(f"Need max_iter >= 1, warmup_iters >= 0, power > 0, got {max_iter}, {warmup_iters}, {power}.")
    # Just under 1, so that a training as short as its warm-up still ends at the schedule's own value.
    return _Warmup(scheduler, min(warmup_iters / max_iter, 1.0 - 1e-9), warmup_factor, power)


def warmup_multistep(
    *,
    max_iter: int,
    milestones: Sequence[float] = (8 / 12, 11 / 12),
    gamma: float = 0.1,
    warmup_iters: int = 5000,
    warmup_factor: float = 0.001,
) -> ParamScheduler:
    """Return a linear warm-up followed by a step decay (Detectron2's ``WarmupMultiStepLR``).

    Args:
        max_iter: number of training iterations.
        milestones: fractions of the training at which the learning rate is multiplied by ``gamma``.
        gamma: factor of each step.
        warmup_iters: number of warm-up iterations.
        warmup_factor: factor of the learning rate at iteration 0.

    Raises:
        ValueError: ``max_iter`` or ``warmup_iters`` is outside its range.
    """
    # Milestones of a very short training may round to the same iteration; the last of them then sets the factor.
    factors = {max(1, round(max_iter * m)): gamma ** (i + 1) for i, m in enumerate(sorted(milestones))}
    steps, values = list(factors), [1.0, *factors.values()]
    updates = max(max_iter, *steps) + 1  # fvcore requires every milestone to be before the end
    scheduler = MultiStepParamScheduler(values=values, milestones=steps, num_updates=updates)
    return _with_warmup(scheduler, max_iter, warmup_iters, warmup_factor)


def warmup_cosine(
    *,
    max_iter: int,
    end_factor: float = 0.01,
    warmup_iters: int = 500,
    warmup_factor: float = 0.001,
    warmup_power: float = 1.0,
    flat_fraction: float = 0.0,
) -> ParamScheduler:
    """Return a warm-up followed by a cosine decay from 1 to ``end_factor``.

    Args:
        max_iter: number of training iterations.
        end_factor: factor of the learning rate at the end of the decay.
        warmup_iters: number of warm-up iterations.
        warmup_factor: factor of the learning rate at iteration 0.
        warmup_power: exponent of the warm-up: 1 is linear, 2 quadratic as in YOLOX.
        flat_fraction: last fraction of the training, in [0, 1), in which the rate stays at ``end_factor``.

    Raises:
        ValueError: an argument is outside its range.
    """
    if not 0 <= flat_fraction < 1:
        raise ValueError(f"warmup_cosine: flat_fraction must be in [0, 1), got {flat_fraction}.")
    scheduler = _FlatEnd(CosineParamScheduler(1.0, end_factor), flat_fraction)
    return _with_warmup(scheduler, max_iter, warmup_iters, warmup_factor, warmup_power)


def warmup_linear(
    *, max_iter: int, end_factor: float = 0.01, warmup_iters: int = 500, warmup_factor: float = 0.001
) -> ParamScheduler:
    """Return a linear warm-up followed by a linear decay from 1 to ``end_factor``, as YOLOv5 and YOLO11 train.

    Args:
        max_iter: number of training iterations.
        end_factor: factor of the learning rate at the end (``lrf`` of Ultralytics).
        warmup_iters: number of warm-up iterations.
        warmup_factor: factor of the learning rate at iteration 0.

    Raises:
        ValueError: ``max_iter`` or ``warmup_iters`` is outside its range.
    """
    return _with_warmup(LinearParamScheduler(1.0, end_factor), max_iter, warmup_iters, warmup_factor)
