"""Learning-rate schedules, as multipliers of the optimizer's rate."""

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
    """Rises to another schedule's value as a power of the time, from ``factor`` of its first value."""

    def __init__(self, scheduler: ParamScheduler, length: float, factor: float, power: float) -> None:
        self._scheduler, self._length, self._factor, self._power = scheduler, length, factor, power

    def __call__(self, where: float) -> float:
        if where >= self._length:
            return float(self._scheduler(where))
        start, end = self._factor * self._scheduler(0.0), self._scheduler(self._length)
        return float(start + (end - start) * (where / self._length) ** self._power)


class _FlatEnd(ParamScheduler):
    """Another schedule in less time, whose last value stays."""

    def __init__(self, scheduler: ParamScheduler, share: float) -> None:
        self._scheduler, self._length = scheduler, 1 - share

    def __call__(self, where: float) -> float:
        return float(self._scheduler(min(where / self._length, 1.0)))


def _with_warmup(
    scheduler: ParamScheduler, max_iter: int, warmup_iters: int, warmup_factor: float, power: float = 1.0
) -> ParamScheduler:
    if max_iter < 1 or warmup_iters < 0 or power <= 0:
        raise ValueError(f"Need max_iter >= 1, warmup_iters >= 0, power > 0, got {max_iter}, {warmup_iters}, {power}.")
    # Just under 1: a training that is all warm-up still ends with the schedule's own value.
    return _Warmup(scheduler, min(warmup_iters / max_iter, 1.0 - 1e-9), warmup_factor, power)


def warmup_multistep(
    *,
    max_iter: int,
    milestones: Sequence[float] = (8 / 12, 11 / 12),
    gamma: float = 0.1,
    warmup_iters: int = 5000,
    warmup_factor: float = 0.001,
) -> ParamScheduler:
    """Linear warm-up, then steps down.

    Args:
        max_iter: iterations of the whole training.
        milestones: where the rate falls, as shares of the training.
        gamma: factor of each fall.
        warmup_iters: iterations of the warm-up.
        warmup_factor: multiplier at its start.
    """
    # In a very short training milestones fall together; then the rate falls once for all of them.
    rate = {max(1, round(max_iter * share)): gamma ** (i + 1) for i, share in enumerate(sorted(milestones))}
    steps, values = list(rate), [1.0, *rate.values()]
    updates = max(max_iter, *steps) + 1  # fvcore wants every milestone before the end
    scheduler = MultiStepParamScheduler(values=values, milestones=steps, num_updates=updates)
    return _with_warmup(scheduler, max_iter, warmup_iters, warmup_factor)


def warmup_cosine(
    *,
    max_iter: int,
    final: float = 0.01,
    warmup_iters: int = 500,
    warmup_factor: float = 0.001,
    warmup_power: float = 1.0,
    flat_share: float = 0.0,
) -> ParamScheduler:
    """Warm-up, then half a cosine from 1 to ``final``.

    Args:
        max_iter: iterations of the whole training.
        final: multiplier at its end.
        warmup_iters: iterations of the warm-up.
        warmup_factor: multiplier at its start.
        warmup_power: 1 rises linearly, 2 as YOLOX does.
        flat_share: last part of the training that stays at ``final``, in [0, 1).

    Raises:
        ValueError: a setting outside its range.
    """
    if not 0 <= flat_share < 1:
        raise ValueError(f"warmup_cosine: flat_share must be in [0, 1), got {flat_share}.")
    scheduler = _FlatEnd(CosineParamScheduler(1.0, final), flat_share)
    return _with_warmup(scheduler, max_iter, warmup_iters, warmup_factor, warmup_power)


def warmup_linear(
    *, max_iter: int, final: float = 0.01, warmup_iters: int = 500, warmup_factor: float = 0.001
) -> ParamScheduler:
    """Linear warm-up, then a straight line from 1 to ``final``, as YOLOv5 and YOLO11 have it."""
    return _with_warmup(LinearParamScheduler(1.0, final), max_iter, warmup_iters, warmup_factor)
