"""Numbers that all processes of a training must agree on."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mean_over_ranks", "several_ranks", "world_size"]


def several_ranks() -> bool:
    """Whether this is one of several processes that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def world_size() -> int:
    """Number of processes that train together, 1 alone."""
    return torch.distributed.get_world_size() if several_ranks() else 1


@torch.no_grad()
def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, without a gradient; every process must call it."""
    if not several_ranks():
        return value.detach()
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / world_size()
