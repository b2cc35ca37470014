"""Memory management of Python."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["paused_gc"]


@contextmanager
def paused_gc() -> Iterator[None]:
    """Pause the garbage collector while many objects are built that are all kept.

    Else it searches all of them again and again, which takes most of the time: 1.3 s instead of 0.2 s for the records
    of 350,000 objects. Also works as a decorator.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
