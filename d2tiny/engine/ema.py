"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from d2tiny.utils.errors import ConfigError

__all__ = ["ModelEMA"]


class ModelEMA:
    """Keeps a running average of all floating-point parameters and buffers.

    The decay grows as ``min(decay, (1 + n) / (10 + n))`` with the number n of updates, so that short trainings do
    not remember their start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the model's present weights.

        Raises:
            ConfigError: ``decay`` outside [0, 1).
        """
        if not 0 <= decay < 1:
            raise ConfigError(f"train.ema.decay must be in [0, 1), got {decay}.")
        self.decay = decay
        self.updates = 0
        self._live = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
        self.average = {k: v.detach().clone() for k, v in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for key, value in self.average.items():
            value.lerp_(self._live[key], 1 - decay)

    def reset(self) -> None:
        """Start again from the present weights (after a checkpoint was loaded into the model)."""
        for key, value in self.average.items():
            value.copy_(self._live[key])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model for the time of the block."""
        kept = {k: v.detach().clone() for k, v in self._live.items()}
        self._copy(self.average)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, source: dict[str, Tensor]) -> None:
        for key, value in self._live.items():
            value.copy_(source[key])

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        """Return the average and the number of updates."""
        return {"updates": self.updates, "average": dict(self.average)}

    def load_state_dict(self, state: dict[str, int | dict[str, Tensor]]) -> None:
        """Restore :meth:`state_dict`."""
        average = state["average"]
        assert isinstance(average, dict) and isinstance(state["updates"], int)
        for key, value in self.average.items():
            value.copy_(average[key])
        self.updates = state["updates"]
