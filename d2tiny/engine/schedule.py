"""Learning-rate schedules, as multipliers of the optimizer's rate."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)

__all__ = ["warmup_cosine", "warmup_multistep"]


def _with_warmup(scheduler: ParamScheduler, max_iter: int, warmup_iters: int, warmup_factor: float) -> ParamScheduler:
    if max_iter < 1 or warmup_iters < 0:
        raise ValueError(f"Need max_iter >= 1 and warmup_iters >= 0, got {max_iter}, {warmup_iters}.")
    return WarmupParamScheduler(
        scheduler,
        warmup_factor=warmup_factor,
        warmup_length=min(warmup_iters / max_iter, 1.0),
        warmup_method="linear",
    )


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
    *, max_iter: int, final: float = 0.01, warmup_iters: int = 500, warmup_factor: float = 0.001
) -> ParamScheduler:
    """Linear warm-up, then half a cosine from 1 to ``final``."""
    return _with_warmup(CosineParamScheduler(1.0, final), max_iter, warmup_iters, warmup_factor)
