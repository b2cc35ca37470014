"""Numbers that all processes of a training must agree on."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["get_world_size", "is_distributed", "reduce_mean"]


def is_distributed() -> bool:
    """Whether this is one of several processes that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def get_world_size() -> int:
    """Number of processes that train together, 1 alone."""
    return torch.distributed.get_world_size() if is_distributed() else 1


@torch.no_grad()
def reduce_mean(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, without a gradient; every process must call it."""
    if not is_distributed():
        return value.detach()
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / get_world_size()
