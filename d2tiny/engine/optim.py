"""Parameter groups of the optimizer: weight decay and learning rates by kind of parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.solver.build import get_default_optimizer_params
from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(
    *,
    model: nn.Module | None = None,
    weight_decay_norm: float | None = 0.0,
    weight_decay_bias: float | None = None,
    base_lr: float | None = None,
    lr_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups with their weight decay and learning rate.

    Parameters that a module names in its attribute ``no_weight_decay`` have no weight decay.

    Args:
        model: the model; the trainer sets it when it builds the optimizer.
        weight_decay_norm: weight decay of normalisation layers; None keeps the optimizer's.
        weight_decay_bias: weight decay of biases; None keeps the optimizer's, 0 is what the YOLO recipes use. If
            given, groups of biases have the key ``bias``, which :class:`~d2tiny.engine.hooks.MomentumWarmup` needs.
        base_lr: the optimizer's learning rate, which ``lr_factors`` multiply.
        lr_factors: factor of the learning rate by prefix of the parameter name; the longest matching prefix counts.

    Returns:
        Parameter groups for a torch optimizer.

    Raises:
        ValueError: no model, ``lr_factors`` without ``base_lr``, or a prefix that matches no parameter.
    """
    if model is None:
        raise ValueError("parameter_groups: the trainer sets `model` before it builds the optimizer.")
    named = [getattr(m, "no_weight_decay", ()) for m in model.modules()]
    exempt = {name for names in named if not callable(names) for name in names}  # a method in models of timm
    overrides: dict[str, dict[str, float]] = {}
    if weight_decay_bias is not None:
        overrides["bias"] = {"weight_decay": weight_decay_bias, "bias": 1.0}
    overrides |= {name: {"weight_decay": 0.0} for name in exempt}
    factors = dict(lr_factors or {})
    if not factors:
        return get_default_optimizer_params(model, weight_decay_norm=weight_decay_norm, overrides=overrides)
    if base_lr is None:
        raise ValueError("parameter_groups: lr_factors need base_lr.")
    names = [name for name, _ in model.named_parameters()]
    for prefix in factors:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"parameter_groups: no parameter begins with '{prefix}' (lr_factors).")

    def factor(name: str) -> float:
        return factors[max((p for p in factors if name.startswith(p)), key=len, default="")]

    factors.setdefault("", 1.0)
    return get_default_optimizer_params(
        model, base_lr=base_lr, weight_decay_norm=weight_decay_norm, lr_factor_func=factor, overrides=overrides
    )
