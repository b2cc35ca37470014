"""Differences between Detectron2 0.6 and main, and what both lack on the CPU. Only this file depends on versions."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

import torch
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException
from torch.nn.parallel import DistributedDataParallel

from d2tiny.utils.errors import D2TinyError
from d2tiny.utils.stop import Stopped

__all__ = ["average_tensors", "launch", "wrap_ddp"]

_PATIENCE = 15.0  # seconds that a process has to finish its step and save when its parent is gone


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


def _worker(main: Callable[..., None], args: tuple[Any, ...], stopped: Any) -> None:
    """Run ``main`` in one of several processes, and end it in order.

    The process group is destroyed, because gloo sometimes crashes at exit otherwise. A signal that stopped ``main`` is
    written to ``stopped``, so that the parent exits with its code.
    """
    _leave_with_parent()
    try:
        main(*args)
    except KeyboardInterrupt as err:
        stopped.value = getattr(err, "number", signal.SIGINT)
        if not getattr(err, "agreed", False):  # the others may wait for this process for ever; they see it end
            _end_now(0)
    comm.synchronize()
    torch.distributed.destroy_process_group()


def _end_now(code: int) -> None:
    for child in multiprocessing.active_children():  # workers of the data loader
        child.kill()
    os._exit(code)


def _leave_with_parent() -> None:
    """Start a thread that asks this process to stop when its parent is gone, and ends it soon after."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_PATIENCE)
        _end_now(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _forward_signals() -> Iterator[list[int]]:
    """Pass SIGINT and SIGTERM on to the processes inside a ``with`` block; gives the numbers of those that came.

    A process that does not end soon after another has is killed; a second SIGINT kills all.
    """
    came: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        children = multiprocessing.active_children()
        again = bool(came) and number == signal.SIGINT
        came.append(number)
        for child in children:
            (child.kill if again else child.terminate)()
        if len(came) == 1:
            threading.Thread(target=_kill_late, args=(children,), daemon=True).start()

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    old = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _kill_late(children: list[multiprocessing.process.BaseProcess]) -> None:
    """Wait for the first process to end, and kill those that do not follow in time."""
    wait([child.sentinel for child in children])
    wait_until = time.monotonic() + _PATIENCE / 2
    for child in children:
        if not wait([child.sentinel], max(0.0, wait_until - time.monotonic())):
            with suppress(OSError):
                child.kill()


def launch(main: Callable[..., None], num_processes: int, *, device: str, args: tuple[Any, ...]) -> None:
    """Run ``main(*args)`` in one or several processes.

    Args:
        main: a module-level function, which must be picklable.
        num_processes: number of processes; on CUDA at most one for each GPU.
        device: ``auto``, ``cpu`` or ``cuda``. With ``cpu`` GPUs are hidden from the processes, so that gloo is used.
        args: picklable arguments of ``main``.

    Raises:
        D2TinyError: more processes than GPUs, or an error in a process, whose traceback is in the message.
        Stopped: SIGINT or SIGTERM came; all processes have ended.
    """
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if num_processes < 1 or (gpus and num_processes > gpus):
        raise D2TinyError(
            f"--num-gpus {num_processes}: this machine has {gpus} GPUs. For CPU processes add train.device=cpu."
        )
    if num_processes == 1:
        main(*args)
        return
    stopped = torch.multiprocessing.get_context("spawn").Value("i", 0)
    with _hidden_gpus(device == "cpu"), _forward_signals() as came:
        try:
            detectron2_launch(_worker, num_processes, dist_url="auto", args=(main, args, stopped))
        except (ProcessRaisedException, ProcessExitedException) as err:
            ended_by = _signal_of(err)
            if not came and ended_by in (signal.SIGINT, signal.SIGTERM):
                raise Stopped(ended_by) from err
            # Where a process was killed, torch ends the others by SIGTERM, and these say that they were stopped.
            if not came and (ended_by or not stopped.value):
                raise D2TinyError(f"{str(err).strip()}\n\n{_what_happened(err)}") from err
    if came or stopped.value:
        raise Stopped(came[0] if came else stopped.value)


def _signal_of(err: Exception) -> int:
    """Return the number of the signal that ended the first process that failed; 0 if it ended otherwise."""
    return max(0, -err.exit_code) if isinstance(err, ProcessExitedException) else 0


def _what_happened(err: Exception) -> str:
    if isinstance(err, ProcessRaisedException):
        return "The last line says what went wrong in that process."
    return "The system ended that process, most likely for lack of memory; --resume goes on from the last checkpoint."


@contextmanager
def _hidden_gpus(hide: bool) -> Iterator[None]:
    """Hide GPUs from processes that are started inside a ``with`` block."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hide:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        if hide and before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        elif hide and before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
