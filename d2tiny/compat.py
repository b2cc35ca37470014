"""What differs between Detectron2 0.6 and main. No other file knows versions."""

from __future__ import annotations

import importlib.util
import logging
import warnings

# Detectron2 uses torch.jit.script and fvcore asks for the tracing state; current torch warns of both, on every start.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

import torch
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["check_detectron2", "close_process_group", "wrap_ddp"]


def check_detectron2() -> None:
    """Say what to do when Detectron2 is absent.

    Raises:
        ImportError: it is not installed.
    """
    if importlib.util.find_spec("detectron2") is None:
        raise ImportError(
            "d2tiny needs detectron2, which is no package on the index. Run `python tools/install_detectron2.py` "
            "in d2tiny's checkout, or build detectron2 from source."
        )


def wrap_ddp(model: nn.Module) -> nn.Module:
    """Wrap a model for several processes; on one process return it unchanged.

    Detectron2's own wrapper always names a GPU, so it cannot train with gloo on the CPU.
    """
    if comm.get_world_size() == 1:
        return model
    gpu = next(model.parameters()).is_cuda
    return DistributedDataParallel(model, device_ids=[comm.get_local_rank()] if gpu else None, broadcast_buffers=False)


def close_process_group() -> None:
    """End a distributed worker; without it gloo sometimes crashes when the process exits."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        comm.synchronize()
        torch.distributed.destroy_process_group()
