"""Loops that numba compiles: those that need it, and those that Python runs in its absence.

With ``njit`` a module can't be imported without numba, because its loops would take hours. ``njit_or_python`` is for
the few that an exported model needs, whose loops Python runs to the same result in bearable time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["COMPILED", "COMPILING", "njit", "njit_or_python"]

COMPILING = "d2tiny.utils.compiled"  # name of the logger that tells that something is compiled
_F = TypeVar("_F", bound=Callable[..., Any])

logger = logging.getLogger(COMPILING)

try:
    from numba import njit

    njit_or_python = njit
    COMPILED = True
except ImportError:
    COMPILED = False

    def njit(**_: Any) -> Callable[[_F], _F]:
        """Raise ``ModuleNotFoundError``: the module that asks for it needs numba."""
        raise ModuleNotFoundError("No module named 'numba'", name="numba")

    def njit_or_python(**_: Any) -> Callable[[_F], _F]:
        """Return a decorator that changes nothing."""
        return lambda function: function


def _announce_compiling() -> None:
    """Say once that something is compiled: with an empty cache it takes up to minutes, and looks as if it hung."""
    from numba.core import event

    class Announcement(event.Listener):
        told = False

        def on_start(self, _: object) -> None:
            if not self.told:
                self.told = True
                logger.info("Compiling loops for this processor, up to minutes; it is kept for the next time.")

        def on_end(self, _: object) -> None:
            pass

    event.register("numba:compile", Announcement())


if COMPILED:
    with suppress(ImportError, AttributeError):  # numba does not promise its events
        _announce_compiling()
