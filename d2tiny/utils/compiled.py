"""Loops that numba compiles where it is installed; elsewhere Python runs them, to the same result, in more time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["COMPILED", "njit"]

_F = TypeVar("_F", bound=Callable[..., Any])

try:
    from numba import njit

    COMPILED = True
except ImportError:
    COMPILED = False

    def njit(**_: Any) -> Callable[[_F], _F]:
        """Return a decorator that changes nothing."""
        return lambda function: function
