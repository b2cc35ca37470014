"""Parameter groups."""

from __future__ import annotations

from typing import Any

from detectron2.solver.build import get_default_optimizer_params
from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(*, model: nn.Module | None = None, weight_decay_norm: float | None = 0.0) -> list[dict[str, Any]]:
    """Return the trainable parameters with their weight decay.

    Args:
        model: set by the trainer when it builds the optimizer.
        weight_decay_norm: weight decay of normalisation layers; None leaves the optimizer's.

    Raises:
        ValueError: no model.
    """
    if model is None:
        raise ValueError("parameter_groups: the trainer sets `model` before it builds the optimizer.")
    exempt = {name for m in model.modules() for name in getattr(m, "no_weight_decay", ())}
    return get_default_optimizer_params(
        model,
        weight_decay_norm=weight_decay_norm,
        overrides={name: {"weight_decay": 0.0} for name in exempt},
    )
