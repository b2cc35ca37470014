"""Mixed precision: the one door to it, and exclusion of code from it."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext

import torch

from d2tiny.utils.env import advise_on_bf16
from d2tiny.utils.errors import ConfigError

__all__ = ["AMP_DTYPES", "amp_dtype", "mixed_precision", "warn_of_slow_precision", "without_autocast"]

AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_WARNED: set[str] = set()

logger = logging.getLogger(__name__)


def amp_dtype(name: str | None, device: str) -> torch.dtype | None:
    """Return the dtype of ``train.amp.dtype``; None for None, which is float32.

    Args:
        name: ``float16`` (GPU only) or ``bfloat16``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ConfigError: unknown name, or float16 on the CPU.
    """
    if name is None:
        return None
    if name not in AMP_DTYPES:
        raise ConfigError(f"train.amp.dtype must be one of {sorted(AMP_DTYPES)}, got {name!r}.")
    if name == "float16" and device == "cpu":
        raise ConfigError("train.amp.dtype=float16 needs a GPU; use bfloat16 on the CPU.")
    return AMP_DTYPES[name]


def mixed_precision(device: str, dtype: torch.dtype | None, setting: str) -> AbstractContextManager[object]:
    """Return a context in which convolutions and linear layers are computed in another dtype.

    Where that takes longer than float32, a warning is logged, once a process for each setting.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: None computes in float32.
        setting: what the user wrote to have it, for the warning.
    """
    if dtype is not None and setting not in _WARNED:
        warn_of_slow_precision(device, dtype, setting)
        _WARNED.add(setting)  # the advice is not worked out in each iteration
    return torch.autocast(device.partition(":")[0], dtype=dtype, enabled=dtype is not None)


def warn_of_slow_precision(device: str, dtype: torch.dtype | None, setting: str) -> None:
    """Log a warning where mixed precision takes longer than float32; see :func:`mixed_precision`."""
    if dtype is torch.bfloat16 and (advice := advise_on_bf16(device)):
        _WARNED.add(setting)
        logger.warning("%s: %s Without it, everything is computed in float32.", setting, advice)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context manager that disables autocast; it does nothing on the ``meta`` device, which has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
