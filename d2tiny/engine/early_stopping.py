"""Ending a training that gets no better."""

from __future__ import annotations

import logging

from detectron2.engine import HookBase

from d2tiny.engine.hooks import EvalAndSave
from d2tiny.utils.errors import ConfigError

__all__ = ["EarlyStop", "EarlyStopping"]

logger = logging.getLogger(__name__)


class EarlyStop(BaseException):
    """The training ends before its last iteration, in all processes; no error."""


class EarlyStopping(HookBase):
    """End the training after so many evaluations in a row that are no better than the best before them."""

    def __init__(self, evaluator: EvalAndSave, *, patience: int, eval_period: int) -> None:
        """Set how long to wait.

        Args:
            evaluator: keeps the best metric and its iteration.
            patience: number of evaluations.
            eval_period: iterations between evaluations.

        Raises:
            ConfigError: ``patience`` below 1, or no evaluations during the training.
        """
        if patience < 1 or eval_period < 1:
            raise ConfigError(
                f"train.early_stopping={patience} must be a number of evaluations (0 trains to the end), and needs "
                f"evaluations during the training: train.eval_period above 0 (it is {eval_period})."
            )
        self._evaluator, self._patience, self._eval_period = evaluator, patience, eval_period

    def is_over(self, next_iter: int) -> bool:
        """Return whether the evaluations until an iteration, which has not been run, end the training."""
        best = max(self._evaluator.best_iter, 0)
        return (
            not self._evaluator.pending and next_iter // self._eval_period - best // self._eval_period >= self._patience
        )

    def after_step(self) -> None:
        """End the training if the patience is at its end.

        Raises:
            EarlyStop: in all processes, after the last weights were saved.
        """
        next_iter = self.trainer.iter + 1
        if next_iter % self._eval_period or next_iter == self.trainer.max_iter or not self.is_over(next_iter):
            return
        self._evaluator.save_final()
        logger.info(
            "Stopped after iteration %d: %d evaluations in a row were no better than AP %.2f after iteration %d, whose "
            "weights are model_best.pth.",
            self.trainer.iter,
            self._patience,
            self._evaluator.best,
            self._evaluator.best_iter - 1,
        )
        raise EarlyStop
