"""Whether PyTorch records a graph now: for code that has a faster way that no graph can hold."""

from __future__ import annotations

import torch

__all__ = ["is_traced"]


def is_traced() -> bool:
    """Return whether a graph is recorded (``torch.export``, ``torch.compile``, ``torch.jit``).

    A recorded graph has no Python in it: what depends on the values of tensors must be written as tensors.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting()
