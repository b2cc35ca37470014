"""Values that all processes of a distributed training share."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["get_world_size", "is_distributed", "reduce_mean"]


def is_distributed() -> bool:
    """Return whether a process group is initialised."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def get_world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return torch.distributed.get_world_size() if is_distributed() else 1


@torch.no_grad()
def reduce_mean(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, without gradient; every process must call it."""
    if not is_distributed():
        return value.detach()
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / get_world_size()
