"""Parameter groups."""

from __future__ import annotations

from typing import Any

from detectron2.solver.build import get_default_optimizer_params
from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(
    *, model: nn.Module | None = None, weight_decay_norm: float | None = 0.0, weight_decay_bias: float | None = None
) -> list[dict[str, Any]]:
    """Return the trainable parameters with their weight decay.

    Args:
        model: set by the trainer when it builds the optimizer.
        weight_decay_norm: weight decay of normalisation layers; None leaves the optimizer's.
        weight_decay_bias: weight decay of all biases, likewise; 0 in the YOLO recipes. Given, biases are groups of
            their own with the key ``bias``, which :class:`~d2tiny.engine.hooks.Warmup` looks for.

    Raises:
        ValueError: no model.
    """
    if model is None:
        raise ValueError("parameter_groups: the trainer sets `model` before it builds the optimizer.")
    exempt = {name for m in model.modules() for name in getattr(m, "no_weight_decay", ())}
    overrides: dict[str, dict[str, float]] = {}
    if weight_decay_bias is not None:
        overrides["bias"] = {"weight_decay": weight_decay_bias, "bias": 1.0}
    overrides |= {name: {"weight_decay": 0.0} for name in exempt}
    return get_default_optimizer_params(model, weight_decay_norm=weight_decay_norm, overrides=overrides)
