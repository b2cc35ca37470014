"""Exclusion of code from mixed precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["without_autocast"]


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context manager that disables autocast; it does nothing on the ``meta`` device, which has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
