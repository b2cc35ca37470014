"""What happens around the iterations: progress, average weights, evaluation, checkpoints."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from tqdm import tqdm

from d2tiny.compat import average_tensors
from d2tiny.engine.checkpoint import TinyCheckpointer
from d2tiny.engine.ema import ModelEMA

__all__ = ["EMAHook", "EvalAndSave", "ProgressBar"]


class ProgressBar(HookBase):
    """A bar with losses, rate and time left; in a log file a line now and then."""

    def __init__(self, max_iter: int, period: int = 20) -> None:
        self._max_iter, self._period = max_iter, period
        self._bar: tqdm | None = None

    def before_train(self) -> None:
        """Open the bar."""
        quiet = not sys.stderr.isatty()
        self._bar = tqdm(
            total=self._max_iter,
            initial=self.trainer.start_iter,
            desc="train",
            unit="it",
            mininterval=30 if quiet else 0.5,
            maxinterval=60 if quiet else 10,
            dynamic_ncols=True,
            disable=not comm.is_main_process(),
        )

    def after_step(self) -> None:
        """Move the bar."""
        assert self._bar is not None
        if self.trainer.iter % self._period == 0 or self.trainer.iter == self._max_iter - 1:
            latest = self.trainer.storage.latest_with_smoothing_hint(self._period)
            shown = {k.removeprefix("loss_"): f"{v[0]:.3f}" for k, v in latest.items() if "loss" in k}
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class EMAHook(HookBase):
    """Updates the average weights after each step."""

    def __init__(self, ema: ModelEMA) -> None:
        self.ema = ema

    def after_step(self) -> None:
        """Update."""
        self.ema.update()


class EvalAndSave(HookBase):
    """Evaluates and saves: ``model_last`` (resumable), ``model_best``, ``model_final``.

    ``model_best`` and ``model_final`` hold the weights that were evaluated (the average, where there is one).
    """

    def __init__(
        self,
        checkpointer: TinyCheckpointer,
        evaluate: Callable[[], dict[str, float]],
        *,
        eval_period: int,
        save_period: int,
        metric: str = "AP",
        ema: ModelEMA | None = None,
    ) -> None:
        """Set the periods in iterations; 0 acts at the end only."""
        self._checkpointer, self._evaluate, self._ema = checkpointer, evaluate, ema
        self._eval_period, self._save_period, self._metric = eval_period, save_period, metric
        self.best = -math.inf
        self.best_iter = -1
        self.results: dict[str, float] = {}

    def after_step(self) -> None:
        """Act when a period is over."""
        done = self.trainer.iter + 1
        last = done == self.trainer.max_iter
        evaluates = last or (self._eval_period and done % self._eval_period == 0)
        saves = last or (self._save_period and done % self._save_period == 0)
        if evaluates or saves:
            average_tensors(self._checkpointer.model.buffers())
            if self._ema:
                average_tensors(self._ema.average.values())
        if evaluates:
            self._evaluate_now(done, last)
        if saves:
            self._checkpointer.save("model_last")

    def _evaluate_now(self, done: int, last: bool) -> None:
        with self._ema.applied() if self._ema else nullcontext():
            self.results = self._evaluate()
            value = self.results.get(self._metric, math.nan)
            if comm.is_main_process():
                self.trainer.storage.put_scalars(
                    **{f"eval/{k}": v for k, v in self.results.items()}, smoothing_hint=False
                )
                if value > self.best:
                    self.best, self.best_iter = float(value), done
                    self._checkpointer.save("model_best", resumable=False)
            if last:
                self._checkpointer.save("model_final", resumable=False)
        comm.synchronize()

    def state_dict(self) -> dict[str, Any]:
        """Return the best result so far."""
        return {"best": self.best, "best_iter": self.best_iter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.best, self.best_iter = state["best"], state["best_iter"]
