"""Loops that numba compiles where it is installed; elsewhere Python runs them, to the same result, in more time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["COMPILED", "LOGGER", "njit"]

LOGGER = "d2tiny.utils.compiled"  # tells that something is compiled
_F = TypeVar("_F", bound=Callable[..., Any])

logger = logging.getLogger(LOGGER)

try:
    from numba import njit
    from numba.core import event

    COMPILED = True

    class _Announcement(event.Listener):
        """Says once that something is compiled: with an empty cache it takes up to minutes, and looks as if it hung."""

        told = False

        def on_start(self, event: object) -> None:
            if not self.told:
                self.told = True
                logger.info("Compiling loops for this processor, up to minutes; it is kept for the next time.")

        def on_end(self, event: object) -> None:
            pass

    event.register("numba:compile", _Announcement())
except ImportError:
    COMPILED = False

    def njit(**_: Any) -> Callable[[_F], _F]:
        """Return a decorator that changes nothing."""
        return lambda function: function
