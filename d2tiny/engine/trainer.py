"""The training loop. An iteration depends only on the weights, the optimizer, the seed and its number."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from d2tiny.engine.accumulation import Accumulation
from d2tiny.engine.early_stopping import EarlyStop
from d2tiny.utils import precision
from d2tiny.utils.errors import CheckpointError, NonFiniteLossError

__all__ = ["Trainer"]

_MAX_ITER = 2**31


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
        accumulation: Accumulation | None = None,
    ) -> None:
        """Set up the loop.

        Args:
            model: returns a dict of losses for a batch in training mode.
            optimizer: optimizer of the model's parameters.
            seed: seed of the random sampling inside the model; each iteration and process derives its own from it.
            device: ``cpu`` or ``cuda``.
            amp_dtype: ``float16`` (GPU only) or ``bfloat16`` for autocast; None trains in float32.
            clip_norm: largest gradient norm of a step; 0 does not clip.
            accumulation: over how many iterations gradients are accumulated; None makes a step in each.

        Raises:
            ConfigError: unknown ``amp_dtype``, or float16 on the CPU.
        """
        super().__init__()
        self._amp = precision.amp_dtype(amp_dtype, device)
        model.train()
        self.model = model
        self.optimizer = optimizer
        self._batches: Iterator[list[dict[str, Any]]] = iter(())
        self._seed = seed
        self._device = device
        self._clip_norm = clip_norm
        self._accumulation = accumulation or Accumulation()
        self._accumulated = 0  # iterations since the last step
        self.stepped = False
        """Whether the optimizer made a step in the last iteration."""
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

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations from one to another, or until a hook ends the training."""
        with suppress(EarlyStop):
            super().train(start_iter, max_iter)

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
            with precision.mixed_precision(self._device, self._amp, "train.amp.enabled=true"):
                losses = self.model(data)
        except FloatingPointError as err:
            raise self._divergence_error(data, str(err)) from err
        total = sum(losses.values())
        assert isinstance(total, Tensor)
        if not bool(torch.isfinite(total)):
            raise self._divergence_error(data, str({k: float(v) for k, v in losses.items()}))
        if self._accumulated == 0:
            self.optimizer.zero_grad()
        self._scaler.scale(total).backward()
        self._accumulated += 1
        # What is left at the end of the training is a step too.
        is_last = self.iter + 1 == getattr(self, "max_iter", -1)
        self.stepped = is_last or self._accumulated >= self._accumulation.iterations(self.iter)
        if self.stepped:
            self._step(data)
        self._log(losses, data_time, data)

    def _step(self, data: list[dict[str, Any]]) -> None:
        """Make a step of the optimizer with the accumulated gradients."""
        divisor = self._accumulated if self._accumulation.reduction == "mean" else 1
        self._accumulated = 0
        if self._clip_norm > 0 or divisor > 1:
            self._scaler.unscale_(self.optimizer)
        if divisor > 1:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad /= divisor
        if self._clip_norm > 0:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)
            self.storage.put_scalar("grad_norm", float(norm))
            if not self._scaler.is_enabled() and not bool(torch.isfinite(norm)):
                raise self._divergence_error(data, "the gradient is NaN or infinite")
        self._scaler.step(self.optimizer)
        self._scaler.update()

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
        """Return iteration, hooks, optimizer, scaler, accumulated gradients, counts of dropped boxes, training time."""
        state = super().state_dict()
        state["optimizer"] = self.optimizer.state_dict()
        state["scaler"] = self._scaler.state_dict()
        state["accumulated"] = self._accumulated
        state["gradients"] = self._gradients()
        state["dropped"] = dict(self.dropped)
        state["seconds"] = self.seconds
        return state

    def _parameters(self) -> dict[str, nn.Parameter]:
        model = self.model.module if isinstance(self.model, DistributedDataParallel) else self.model
        return dict(model.named_parameters())

    def _gradients(self) -> dict[str, Tensor]:
        """Return what was accumulated since the last step, by name; the same in all processes."""
        if not self._accumulated:
            return {}
        return {name: p.grad for name, p in self._parameters().items() if p.grad is not None}

    def _load_gradients(self, accumulated: int, gradients: dict[str, Tensor]) -> None:
        """Go on in the middle of an accumulation.

        Raises:
            CheckpointError: gradients are missing, or not of the model's parameters.
        """
        parameters = self._parameters()
        if accumulated < 0 or bool(accumulated) != bool(gradients):
            raise CheckpointError(f"'trainer.accumulated' is {accumulated}, with {len(gradients)} gradients")
        for name, value in gradients.items():
            if name not in parameters or not isinstance(value, Tensor) or value.shape != parameters[name].shape:
                raise CheckpointError(f"'trainer.gradients.{name}' is not of a parameter of the model")
        self._accumulated = accumulated
        for name, value in gradients.items():
            parameters[name].grad = torch.empty_like(parameters[name]).copy_(value)

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
            CheckpointError: a negative iteration, or a state of the optimizer or gradients that are not of its
                parameters.
        """
        if not 0 <= state_dict["iteration"] < _MAX_ITER:
            raise CheckpointError(f"iteration {state_dict['iteration']}")
        self._check_optimizer_state(state_dict["optimizer"])
        self._load_gradients(state_dict.get("accumulated", 0), state_dict.get("gradients", {}))
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self._scaler.load_state_dict(state_dict["scaler"])
        self.dropped = Counter(state_dict["dropped"])
        self._seconds_before = float(state_dict["seconds"])
