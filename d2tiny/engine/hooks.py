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
from d2tiny.utils.errors import ConfigError, did_you_mean

__all__ = ["EMAHook", "EvalAndSave", "ProgressBar", "SetFrom", "Warmup"]


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


class Warmup(HookBase):
    """Warm up the momentum, and the learning rate of biases, by themselves; after ``iters`` nothing changes.

    The recipe of YOLOv5 and YOLO11 (docs/papers/rs_tinynet.md#training-recipe).
    """

    def __init__(self, *, iters: int, momentum: float = 0.8, bias_lr: float = 0.1) -> None:
        """Set where both start.

        Args:
            iters: of the warm-up.
            momentum: at its start; it rises to the optimizer's.
            bias_lr: learning rate of biases at its start; it falls to that of the schedule.

        Raises:
            ValueError: a setting outside its range.
        """
        if iters < 0 or not 0 <= momentum < 1 or bias_lr < 0:
            raise ValueError(
                f"Warmup: need iters >= 0, momentum in [0, 1), bias_lr >= 0: {iters}, {momentum}, {bias_lr}."
            )
        self.iters, self.momentum, self.bias_lr = iters, momentum, bias_lr

    def before_train(self) -> None:
        """Look whether there is something to warm up.

        Raises:
            ConfigError: no momentum and no group of biases.
        """
        groups = self.trainer.optimizer.param_groups
        if not any("momentum" in g or g.get("bias") for g in groups):
            raise ConfigError(
                "train.hooks (Warmup): the optimizer has no momentum and no groups of biases; take SGD, or set "
                "optimizer.params.weight_decay_bias, or leave the hook out."
            )

    def before_step(self) -> None:
        """Set both for this iteration."""
        optimizer = self.trainer.optimizer
        if self.trainer.iter > self.iters:
            return
        share = self.trainer.iter / self.iters if self.iters else 1.0
        for group in optimizer.param_groups:
            if "momentum" in group:
                final = optimizer.defaults["momentum"]
                group["momentum"] = self.momentum + (final - self.momentum) * share
            if group.get("bias"):
                group["lr"] = self.bias_lr + (group["lr"] - self.bias_lr) * share  # the schedule sets it anew each step


class SetFrom(HookBase):
    """Sets an attribute of the model from a part of the training on (YOLOX adds L1 at the end)."""

    def __init__(self, *, name: str, value: float, share: float) -> None:
        """Set what and when.

        Args:
            name: of the attribute, with dots, as ``head.l1_weight``.
            value: to set.
            share: part of the training that is over, in [0, 1].

        Raises:
            ValueError: a share outside its range.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"SetFrom: share must be in [0, 1], got {share}.")
        self.name, self.value, self.share = name, value, share

    def before_train(self) -> None:
        """Look whether there is such an attribute.

        Raises:
            ConfigError: there is none.
        """
        self._owner()

    def before_step(self) -> None:
        """Set it when the time has come."""
        if self.trainer.iter >= self.share * self.trainer.max_iter:
            setattr(self._owner(), self.name.rsplit(".", 1)[-1], self.value)

    def _owner(self) -> Any:
        model = self.trainer.model
        *path, last = self.name.split(".")
        node = getattr(model, "module", model) if not hasattr(model, (path or [last])[0]) else model
        for part in path:
            node = getattr(node, part, None)
        if not hasattr(node, last):
            known = [] if node is None else [k for k in vars(node) if not k.startswith("_")]
            raise ConfigError(
                f"train.hooks (SetFrom): the model has no attribute '{self.name}'. {did_you_mean(last, known)}"
            )
        return node


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
