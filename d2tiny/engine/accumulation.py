"""Gradient accumulation: one step of the optimizer for the images of several iterations."""

from __future__ import annotations

from dataclasses import dataclass

from d2tiny.utils.errors import did_you_mean

__all__ = ["Accumulation"]

_REDUCTIONS = ("mean", "sum")


@dataclass(frozen=True, kw_only=True)
class Accumulation:
    """Over how many iterations gradients are accumulated before a step of the optimizer.

    Attributes:
        nominal_batch_size: number of images that a step is for; the iterations of a step are as many as come nearest.
            0 makes a step in each iteration.
        batch_size: images of an iteration, over all processes.
        reduction: ``mean`` divides the gradients of a step by the number of its iterations, as a larger batch does
            where losses are means; ``sum`` does not, for losses that are multiplied by the number of images (YOLOv5,
            YOLO11).
        warmup_iters: the number grows linearly from one in the first iterations, as YOLOv5 and YOLO11 train.
    """

    nominal_batch_size: int = 0
    batch_size: int = 1
    reduction: str = "mean"
    warmup_iters: int = 0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a setting is outside its range.
        """
        if self.nominal_batch_size < 0 or self.batch_size < 1 or self.warmup_iters < 0:
            raise ValueError(
                "Accumulation: need nominal_batch_size >= 0 (0: a step in each iteration), batch_size >= 1, "
                f"warmup_iters >= 0, got {self.nominal_batch_size}, {self.batch_size}, {self.warmup_iters}."
            )
        if self.reduction not in _REDUCTIONS:
            raise ValueError(
                f"Accumulation: reduction is {self.reduction!r}. {did_you_mean(str(self.reduction), _REDUCTIONS)}"
            )

    def iterations(self, iteration: int) -> int:
        """Return the number of iterations of a step at an iteration, at least 1."""
        progress = min(iteration / self.warmup_iters, 1.0) if self.warmup_iters else 1.0
        return max(1, round(1 + (self.nominal_batch_size / self.batch_size - 1) * progress))

    @property
    def images(self) -> int:
        """Images of a step after the warm-up: ``nominal_batch_size`` where ``batch_size`` divides it."""
        return self.batch_size * self.iterations(self.warmup_iters)
