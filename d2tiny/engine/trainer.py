"""The training loop. An iteration depends only on the weights, the optimizer, the seed and its number."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import Tensor, nn

from d2tiny.utils.errors import CheckpointError, ConfigError, NonFiniteLossError

__all__ = ["Trainer"]

_MAX_ITER = 2**31
AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Trainer(TrainerBase):
    """Run forward pass, backward pass and optimizer step on CPU or GPU, with or without mixed precision."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        device: str,
        amp_dtype: str | None = None,
        clip_norm: float = 0.0,
    ) -> None:
        """Set up the loop.

        Args:
            model: returns a dict of losses for a batch in training mode.
            optimizer: optimizer of the model's parameters.
            seed: seed of the random sampling inside the model; each iteration and process derives its own from it.
            device: ``cpu`` or ``cuda``.
            amp_dtype: ``float16`` (GPU only) or ``bfloat16`` for autocast; None trains in float32.
            clip_norm: largest gradient norm; 0 does not clip.

        Raises:
            ConfigError: unknown ``amp_dtype``, or float16 on the CPU.
        """
        super().__init__()
        if amp_dtype is not None and amp_dtype not in AMP_DTYPES:
            raise ConfigError(f"train.amp.dtype must be one of {sorted(AMP_DTYPES)}, got {amp_dtype!r}.")
        if amp_dtype == "float16" and device == "cpu":
            raise ConfigError("train.amp.dtype=float16 needs a GPU; use bfloat16 on the CPU.")
        model.train()
        self.model = model
        self.optimizer = optimizer
        self._batches: Iterator[list[dict[str, Any]]] = iter(())
        self._seed = seed
        self._device = device
        self._amp = AMP_DTYPES[amp_dtype] if amp_dtype else None
        self._clip_norm = clip_norm
        self._scaler = torch.amp.GradScaler(device, enabled=self._amp is torch.float16)
        self.dropped: Counter[str] = Counter()
        self._start = time.perf_counter()
        self._seconds_before = 0.0

    def set_data_iterator(self, batches: Iterator[list[dict[str, Any]]]) -> None:
        """Set the infinite iterator of batches; its first batch belongs to the iteration that training starts at."""
        self._batches = batches

    @property
    def seconds(self) -> float:
        """Return the seconds of training, including the runs before a resume up to their last checkpoint."""
        return self._seconds_before + time.perf_counter() - self._start

    def run_step(self) -> None:
        """Run one iteration.

        Raises:
            NonFiniteLossError: a loss or the gradient is NaN or infinite; the message names the images.
        """
        start = time.perf_counter()
        data = next(self._batches)
        data_time = time.perf_counter() - start
        torch.manual_seed(int(np.random.SeedSequence((self._seed, self.iter, comm.get_rank())).generate_state(1)[0]))
        try:
            with torch.autocast(self._device, dtype=self._amp, enabled=self._amp is not None):
                losses = self.model(data)
        except FloatingPointError as err:
            raise self._divergence_error(data, str(err)) from err
        total = sum(losses.values())
        assert isinstance(total, Tensor)
        if not bool(torch.isfinite(total)):
            raise self._divergence_error(data, str({k: float(v) for k, v in losses.items()}))
        self.optimizer.zero_grad()
        self._scaler.scale(total).backward()
        if self._clip_norm > 0:
            self._scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)
            self.storage.put_scalar("grad_norm", float(norm))
            if not self._scaler.is_enabled() and not bool(torch.isfinite(norm)):
                raise self._divergence_error(data, "the gradient is NaN or infinite")
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self._log(losses, data_time, data)

    def _divergence_error(self, data: list[dict[str, Any]], reason: str) -> NonFiniteLossError:
        files = "\n  ".join(str(d.get("file_name", d.get("image_id"))) for d in data)
        return NonFiniteLossError(
            f"Training diverged at iteration {self.iter}: {reason}\nThe batch was:\n  {files}\n"
            "Check these images and their boxes; if they are fine, lower optimizer.lr or set train.clip_norm=10."
        )

    def _log(self, losses: dict[str, Tensor], data_time: float, data: list[dict[str, Any]]) -> None:
        """Write the mean losses over all processes to the event storage, and count dropped boxes."""
        values = {k: float(v.detach()) for k, v in losses.items()}
        values["data_time"] = data_time
        dropped = Counter[str]()
        for item in data:
            dropped.update(item.get("dropped", {}))
        values.update({f"dropped/{k}": float(v) for k, v in dropped.items()})
        gathered = comm.gather(values)
        if comm.is_main_process():
            keys = dict.fromkeys(k for g in gathered for k in g)
            mean = {k: float(np.mean([g.get(k, 0.0) for g in gathered])) for k in keys}
            self.storage.put_scalar("data_time", mean.pop("data_time"))
            for key in [k for k in mean if k.startswith("dropped/")]:
                self.dropped[key] += round(mean.pop(key) * len(gathered))
                self.storage.put_scalar(key, self.dropped[key], smoothing_hint=False)
            self.storage.put_scalar("total_loss", sum(mean.values()))
            self.storage.put_scalars(**mean)

    def state_dict(self) -> dict[str, Any]:
        """Return iteration, hooks, optimizer, gradient scaler, counts of dropped boxes and training time."""
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["scaler"] = self._scaler.state_dict()
        state["dropped"] = dict(self.dropped)
        state["seconds"] = self.seconds
        return state

    def _check_optimizer_state(self, loaded: dict[str, Any]) -> None:
        """Check the moments of parameters, which torch does not; it counts parameters through all groups."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Any]] = loaded["state"]
        if [n for group in loaded["param_groups"] for n in group["params"]] != list(range(len(parameters))):
            raise CheckpointError("parameters of the optimizer are missing or in another order")
        names = {tuple(sorted(moments)) for moments in state.values()}
        if len(names) > 1:
            raise CheckpointError(f"parameters have different states in the optimizer: {sorted(names)}")
        for number, moments in state.items():
            shape = parameters[number].shape
            for name, value in moments.items():
                place = f"'trainer.optimizer.state.{number}.{name}'"
                if name == "step" or value is None:
                    continue
                if not isinstance(value, Tensor) or not value.is_floating_point():
                    raise CheckpointError(f"{place} is a {type(value).__name__}, not a tensor of numbers")
                if value.shape != shape:
                    raise CheckpointError(f"{place} has shape {tuple(value.shape)}, its parameter {tuple(shape)}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            CheckpointError: a negative iteration, or a state of the optimizer that is not of its parameters.
        """
        if not 0 <= state_dict["iteration"] < _MAX_ITER:
            raise CheckpointError(f"iteration {state_dict['iteration']}")
        self._check_optimizer_state(state_dict["optimizer"])
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self._scaler.load_state_dict(state_dict["scaler"])
        self.dropped = Counter(state_dict["dropped"])
        self._seconds_before = float(state_dict["seconds"])
