"""Stopping on SIGINT and SIGTERM: a training finishes its step and saves, everything else leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["StopSignals", "Stopped", "raise_on_sigterm"]


class Stopped(KeyboardInterrupt):
    """The process was asked to stop by a signal, and has left what it does in order."""

    def __init__(self, number: int = signal.SIGINT, *, agreed: bool = False) -> None:
        """Set why the process stops.

        Args:
            number: number of the signal.
            agreed: all processes of a distributed training stop at the same place.
        """
        super().__init__(number)
        self.number, self.agreed = int(number), agreed

    @property
    def exit_code(self) -> int:
        """Exit code by the convention of shells: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


class StopSignals:
    """Record SIGINT and SIGTERM inside a ``with`` block instead of stopping at once; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.number = 0
        """Number of the first signal; 0 while there was none."""
        self._at_once = False
        self._asked = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._old = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        first, self.number = not self.number, self.number or number
        self._asked += number == signal.SIGINT
        if self._at_once or self._asked > 1:
            raise Stopped(self.number)
        if first:  # not by the logger, which may be in the middle of a line
            os.write(2, b"\nStopping after this step; the state is saved. Once more (Ctrl-C) stops at once.\n")

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise :class:`Stopped` as soon as a signal comes inside this block, for work that can be done again.

        Raises:
            Stopped: a signal came, inside the block or before it.
        """
        if self.number:
            raise Stopped(self.number)
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into :class:`Stopped` inside a ``with`` block, so that open files are left in order."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
