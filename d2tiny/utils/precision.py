"""Where mixed precision must not reach."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["without_autocast"]


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A block in which autocast is off; on devices that have none (``meta``) nothing happens."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
