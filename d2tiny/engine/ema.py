"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from d2tiny.utils.errors import ConfigError

__all__ = ["ModelEMA"]


class ModelEMA:
    """Keep an exponential moving average (EMA) of all floating-point parameters and buffers.

    The decay of update n is ``min(decay, (1 + n) / (10 + n))``, so that the average of a short training does not
    depend on its initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start the average at the model's current weights.

        Args:
            model: the model whose weights are averaged.
            decay: largest decay, in [0, 1).

        Raises:
            ConfigError: ``decay`` is outside [0, 1).
        """
        if not 0 <= decay < 1:
            raise ConfigError(f"train.ema.decay must be in [0, 1), got {decay}.")
        self.decay = decay
        self.updates = 0
        self._model_state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
        self.average = {k: v.detach().clone() for k, v in self._model_state.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for key, value in self.average.items():
            value.lerp_(self._model_state[key], 1 - decay)

    def reset(self) -> None:
        """Restart the average at the current weights, after a checkpoint was loaded into the model."""
        for key, value in self.average.items():
            value.copy_(self._model_state[key])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the averaged weights in the model inside a ``with`` block; restore the current ones afterwards."""
        current = {k: v.detach().clone() for k, v in self._model_state.items()}
        self._copy(self.average)
        try:
            yield
        finally:
            self._copy(current)

    @torch.no_grad()
    def _copy(self, source: dict[str, Tensor]) -> None:
        for key, value in self._model_state.items():
            value.copy_(source[key])

    def state_dict(self) -> dict[str, int | dict[str, Tensor]]:
        """Return the averaged weights and the number of updates."""
        return {"updates": self.updates, "average": dict(self.average)}

    def load_state_dict(self, state: dict[str, int | dict[str, Tensor]]) -> None:
        """Restore what :meth:`state_dict` returned."""
        average = state["average"]
        assert isinstance(average, dict) and isinstance(state["updates"], int)
        for key, value in self.average.items():
            value.copy_(average[key])
        self.updates = state["updates"]
