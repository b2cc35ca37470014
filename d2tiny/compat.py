"""Differences between Detectron2 0.6 and main, and what both lack on the CPU. Only this file depends on versions."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any

# Detectron2 uses torch.jit.script and fvcore queries the tracing state; recent torch warns about both at every start.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

import torch
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.multiprocessing import ProcessRaisedException
from torch.nn.parallel import DistributedDataParallel

from d2tiny.utils.errors import D2TinyError

__all__ = ["average_tensors", "launch", "wrap_ddp"]


def wrap_ddp(model: nn.Module) -> nn.Module:
    """Wrap a model in ``DistributedDataParallel``; with one process return it unchanged.

    Detectron2's own wrapper always passes a GPU, so it cannot train with gloo on the CPU.
    """
    if comm.get_world_size() == 1:
        return model
    gpu = next(model.parameters()).is_cuda
    return DistributedDataParallel(model, device_ids=[comm.get_local_rank()] if gpu else None, broadcast_buffers=False)


@torch.no_grad()
def average_tensors(tensors: Iterable[Tensor]) -> None:
    """Average floating-point tensors over all processes, in place.

    Batch-norm statistics differ between processes, but evaluation and checkpoints need one set.
    """
    world = comm.get_world_size()
    if world == 1:
        return
    for tensor in tensors:
        if tensor.is_floating_point():
            torch.distributed.all_reduce(tensor)
            tensor.div_(world)


def _worker(main: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Run ``main`` and destroy the process group; otherwise gloo sometimes crashes at exit."""
    main(*args)
    if comm.get_world_size() > 1:
        comm.synchronize()
        torch.distributed.destroy_process_group()


def launch(main: Callable[..., None], num_processes: int, *, device: str, args: tuple[Any, ...]) -> None:
    """Run ``main(*args)`` in one or several processes.

    Args:
        main: a module-level function, which must be picklable.
        num_processes: number of processes; on CUDA at most one for each GPU.
        device: ``auto``, ``cpu`` or ``cuda``. With ``cpu`` GPUs are hidden from the processes, so that gloo is used.
        args: picklable arguments of ``main``.

    Raises:
        D2TinyError: more processes than GPUs, or an error in a process, whose traceback is in the message.
    """
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if num_processes < 1 or (gpus and num_processes > gpus):
        raise D2TinyError(
            f"--num-gpus {num_processes}: this machine has {gpus} GPUs. For CPU processes add train.device=cpu."
        )
    if num_processes == 1:
        main(*args)
        return
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        detectron2_launch(_worker, num_processes, dist_url="auto", args=(main, args))
    except ProcessRaisedException as err:
        raise D2TinyError(f"{str(err).strip()}\n\nThe last line says what went wrong in that process.") from err
    finally:
        if device == "cpu" and hidden is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        elif device == "cpu" and hidden is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = hidden
