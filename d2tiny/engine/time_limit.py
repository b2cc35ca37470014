"""Ending a training in time."""

from __future__ import annotations

import time

from detectron2.engine import HookBase
from detectron2.utils import comm

from d2tiny.engine.early_stopping import EarlyStop
from d2tiny.utils.errors import ConfigError

__all__ = ["TimeLimit"]


class TimeLimit(HookBase):
    """End a training that takes longer than planned after the iteration that it is in, with evaluation and weights."""

    def __init__(self, *, seconds: float) -> None:
        """Set how long the training may take.

        Args:
            seconds: from its first iteration to the beginning of its last.

        Raises:
            ConfigError: it is not positive.
        """
        if seconds <= 0:
            raise ConfigError(f"train.hooks (TimeLimit): seconds must be above 0, got {seconds}.")
        self.seconds = seconds
        self._end = 0.0

    def before_train(self) -> None:
        """Start the clock.

        Raises:
            ConfigError: there are several processes, which would end at different iterations.
        """
        if comm.get_world_size() > 1:
            raise ConfigError("train.hooks (TimeLimit): it works in trainings of one process only.")
        self._end = time.monotonic() + self.seconds

    def before_step(self) -> None:
        """Make this iteration the last if the time is over.

        Raises:
            EarlyStop: after the last iteration.
        """
        if self.trainer.iter >= self.trainer.max_iter:
            raise EarlyStop
        if time.monotonic() >= self._end:
            self.trainer.max_iter = self.trainer.iter + 1
