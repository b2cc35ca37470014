"""Training hooks: progress bar, weight averaging, warm-up, evaluation and checkpoints."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from tqdm import tqdm

from d2tiny.compat import average_tensors
from d2tiny.engine.checkpoint import TinyCheckpointer
from d2tiny.engine.ema import ModelEMA
from d2tiny.utils.errors import ConfigError, did_you_mean
from d2tiny.utils.stop import Stopped, StopSignals

__all__ = ["EMAHook", "EvalAndSave", "MomentumWarmup", "ProgressBar", "SetAttribute", "StopHook"]

logger = logging.getLogger(__name__)


class ProgressBar(HookBase):
    """Show losses, iterations per second and remaining time; without a terminal, print a line every 30 seconds."""

    def __init__(self, max_iter: int, period: int = 20) -> None:
        self._max_iter, self._period = max_iter, period
        self._bar: tqdm | None = None

    def before_train(self) -> None:
        """Create the progress bar at the iteration that training starts from."""
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=self._max_iter,
            initial=self.trainer.start_iter,
            desc="train",
            unit="it",
            mininterval=0.5 if terminal else 30,
            maxinterval=10 if terminal else 60,
            dynamic_ncols=True,
            disable=not comm.is_main_process(),
        )

    def after_step(self) -> None:
        """Advance the bar by one; refresh the smoothed losses once per period."""
        assert self._bar is not None
        if self.trainer.iter % self._period == 0 or self.trainer.iter == self._max_iter - 1:
            latest = self.trainer.storage.latest_with_smoothing_hint(self._period)
            losses = {k.removeprefix("loss_"): f"{v[0]:.3f}" for k, v in latest.items() if "loss" in k}
            self._bar.set_postfix(losses, refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        """Close the progress bar."""
        if self._bar is not None:
            self._bar.close()


class EMAHook(HookBase):
    """Update the exponential moving average of the weights after each step of the optimizer."""

    def __init__(self, ema: ModelEMA) -> None:
        self.ema = ema

    def after_step(self) -> None:
        """Update the moving average, unless gradients are still accumulated."""
        if self.trainer.stepped:
            self.ema.update()


class MomentumWarmup(HookBase):
    """Warm up the momentum and the learning rate of biases, as YOLOv5 and YOLO11 train.

    Both change linearly over the first iterations, with or without a step of the optimizer; afterwards the optimizer's
    momentum and the schedule's rate hold (docs/papers/rs_tinynet.md#training-recipe).
    """

    def __init__(self, *, warmup_iters: int, warmup_momentum: float = 0.8, warmup_bias_lr: float = 0.1) -> None:
        """Set the length of the warm-up and the values it starts from.

        Args:
            warmup_iters: number of warm-up iterations.
            warmup_momentum: momentum at iteration 0, in [0, 1); it changes linearly to the optimizer's momentum.
            warmup_bias_lr: learning rate of biases at iteration 0; it changes linearly to the schedule's rate.

        Raises:
            ValueError: an argument is outside its range.
        """
        if warmup_iters < 0 or not 0 <= warmup_momentum < 1 or warmup_bias_lr < 0:
            raise ValueError(
                "MomentumWarmup: need warmup_iters >= 0, warmup_momentum in [0, 1), warmup_bias_lr >= 0: "
                f"{warmup_iters}, {warmup_momentum}, {warmup_bias_lr}."
            )
        self.warmup_iters, self.warmup_momentum, self.warmup_bias_lr = warmup_iters, warmup_momentum, warmup_bias_lr

    def before_train(self) -> None:
        """Check that the optimizer has something to warm up.

        Raises:
            ConfigError: the optimizer has neither momentum nor a parameter group of biases.
        """
        groups = self.trainer.optimizer.param_groups
        if not any("momentum" in g or g.get("bias") for g in groups):
            raise ConfigError(
                "train.hooks (MomentumWarmup): the optimizer has no momentum and no groups of biases; take SGD, or set "
                "optimizer.params.weight_decay_bias, or leave the hook out."
            )

    def before_step(self) -> None:
        """Set momentum and bias learning rate for this iteration."""
        optimizer = self.trainer.optimizer
        if self.trainer.iter > self.warmup_iters:
            return
        progress = self.trainer.iter / self.warmup_iters if self.warmup_iters else 1.0
        for group in optimizer.param_groups:
            if "momentum" in group:
                momentum = optimizer.defaults["momentum"]
                group["momentum"] = self.warmup_momentum + (momentum - self.warmup_momentum) * progress
            if group.get("bias"):
                # The schedule sets group["lr"] again before every step, so this does not accumulate.
                group["lr"] = self.warmup_bias_lr + (group["lr"] - self.warmup_bias_lr) * progress


class SetAttribute(HookBase):
    """Set an attribute of the model once a fraction of the training is over (YOLOX adds an L1 loss at the end)."""

    def __init__(self, *, attribute: str, value: float, start_fraction: float) -> None:
        """Set which attribute changes, to what and when.

        Args:
            attribute: dotted path of the attribute in the model, for example ``head.l1_weight``.
            value: new value of the attribute.
            start_fraction: fraction of the iterations after which the value holds, in [0, 1].

        Raises:
            ValueError: ``start_fraction`` is outside [0, 1].
        """
        if not 0 <= start_fraction <= 1:
            raise ValueError(f"SetAttribute: start_fraction must be in [0, 1], got {start_fraction}.")
        self.attribute, self.value, self.start_fraction = attribute, value, start_fraction

    def before_train(self) -> None:
        """Check that the model has the attribute.

        Raises:
            ConfigError: the model has no such attribute.
        """
        self._owner()

    def before_step(self) -> None:
        """Set the attribute if the iteration is late enough."""
        if self.trainer.iter >= self.start_fraction * self.trainer.max_iter:
            setattr(self._owner(), self.attribute.rsplit(".", 1)[-1], self.value)

    def _owner(self) -> Any:
        """Return the module (or part) that holds the attribute."""
        model = self.trainer.model
        *path, last = self.attribute.split(".")
        node = getattr(model, "module", model) if not hasattr(model, (path or [last])[0]) else model
        for part in path:
            node = getattr(node, part, None)
        if not hasattr(node, last):
            known = [] if node is None else [k for k in vars(node) if not k.startswith("_")]
            raise ConfigError(
                f"train.hooks (SetAttribute): the model has no attribute '{self.attribute}'. "
                f"{did_you_mean(last, known)}"
            )
        return node


class EvalAndSave(HookBase):
    """Evaluate periodically and write ``model_last`` (resumable), ``model_best`` and ``model_final``.

    ``model_best`` and ``model_final`` hold the weights that were evaluated: the moving average where there is one.
    The state is saved before an evaluation too, so that a training stopped meanwhile evaluates when it resumes.
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
        signals: StopSignals | None = None,
        writer: EventWriter | None = None,
    ) -> None:
        """Set what is evaluated and how often.

        Args:
            checkpointer: writes the checkpoints.
            evaluate: returns the metrics of the current weights.
            eval_period: iterations between evaluations; 0 evaluates only after the last iteration.
            save_period: iterations between checkpoints; 0 saves only after the last iteration.
            metric: metric by which ``model_best`` is chosen; higher is better.
            ema: moving average to evaluate and save instead of the current weights.
            signals: signals that stop the training; they stop an evaluation at once.
            writer: writes what an evaluation found before the checkpoint says that it is done.
        """
        self._checkpointer, self._evaluate, self._ema = checkpointer, evaluate, ema
        self._eval_period, self._save_period, self._metric = eval_period, save_period, metric
        self._signals = signals or StopSignals()
        self._writer = writer
        self._saved_iter = -1
        self.best = -math.inf
        self.best_iter = -1
        self.pending = False
        """Whether the weights of the checkpoint are still to be evaluated."""
        self.results: dict[str, float] = {}

    def before_train(self) -> None:
        """Do the evaluation that the training was stopped in."""
        if self.pending:
            self.trainer.storage.iter = self.trainer.start_iter - 1
            self.evaluate_and_save(self.trainer.start_iter, is_last=False)

    def after_step(self) -> None:
        """Evaluate or save if a period ends with this iteration."""
        next_iter = self.trainer.iter + 1
        is_last = next_iter == self.trainer.max_iter
        if is_last or (self._eval_period and next_iter % self._eval_period == 0):
            self.pending = True
            self.save(next_iter)
            self.evaluate_and_save(next_iter, is_last=is_last)
        elif self._save_period and next_iter % self._save_period == 0:
            self.save(next_iter)

    def save(self, next_iter: int) -> None:
        """Save the state from which the training goes on with ``next_iter``, once."""
        if self._saved_iter == next_iter:
            return
        average_tensors(self._checkpointer.model.buffers())
        if self._ema:
            average_tensors(self._ema.average.values())
        self._checkpointer.save("model_last", keep_previous=True)
        self._saved_iter = next_iter

    def evaluate_and_save(self, next_iter: int, *, is_last: bool) -> None:
        """Evaluate, keep the best weights, and save that it is done.

        Args:
            next_iter: the iteration that follows.
            is_last: also write ``model_final``.

        Raises:
            Stopped: a signal came meanwhile; the evaluation is done again when the training resumes.
        """
        with self._signals.at_once():
            self._evaluate_and_keep_best(next_iter, is_last)
        if self._writer is not None:
            self._writer.write()
        self.pending = False
        self._checkpointer.save("model_last")

    def save_final(self) -> None:
        """Write ``model_final`` before the last iteration."""
        with self.averaged():
            if comm.is_main_process():
                self._checkpointer.save("model_final", resumable=False)
        comm.synchronize()

    def averaged(self) -> AbstractContextManager[None]:
        """Use the moving average in the model inside a ``with`` block, where there is one."""
        return self._ema.applied() if self._ema else nullcontext()

    def _evaluate_and_keep_best(self, next_iter: int, is_last: bool) -> None:
        with self.averaged():
            self.results = self._evaluate()
            value = comm.all_gather(self.results.get(self._metric, math.nan))[0]  # of the main process
            better = value > self.best
            if better:
                self.best, self.best_iter = float(value), next_iter
            if comm.is_main_process():
                self.trainer.storage.put_scalars(
                    **{f"eval/{k}": v for k, v in self.results.items()}, smoothing_hint=False
                )
                if better:
                    self._checkpointer.save("model_best", resumable=False)
            if is_last:
                self._checkpointer.save("model_final", resumable=False)
        comm.synchronize()

    def state_dict(self) -> dict[str, Any]:
        """Return the best metric so far, its iteration, and whether an evaluation is to be done."""
        return {"best": self.best, "best_iter": self.best_iter, "pending": self.pending}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.best, self.best_iter = state["best"], state["best_iter"]
        self.pending = state.get("pending", False)


class StopHook(HookBase):
    """Stop after an iteration in which SIGINT or SIGTERM came to any process: save, and leave the training."""

    def __init__(self, signals: StopSignals, evaluator: EvalAndSave) -> None:
        """Set where signals are recorded, and what saves the state."""
        self._signals, self._evaluator = signals, evaluator

    def after_step(self) -> None:
        """Save and leave if a process was asked to.

        Raises:
            Stopped: the same in all processes.
        """
        number = max(comm.all_gather(self._signals.number))
        if number:
            self._evaluator.save(self.trainer.iter + 1)
            logger.info("Stopped after iteration %d; --resume goes on from there.", self.trainer.iter)
            raise Stopped(number, agreed=True)
