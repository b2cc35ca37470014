"""Errors that users see, and the hint they end with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "D2TinyError",
    "DatasetError",
    "NonFiniteLossError",
    "did_you_mean",
]


class D2TinyError(Exception):
    """Base of all errors that a user can mend; the command-line tools print them without a traceback."""


class ConfigError(D2TinyError, ValueError):
    """A config names something that does not exist or does not fit together."""


class DatasetError(D2TinyError, ValueError):
    """A dataset is missing or broken; the message names the file."""


class CheckpointError(D2TinyError, RuntimeError):
    """A checkpoint cannot be read or does not fit the model."""


class NonFiniteLossError(D2TinyError, FloatingPointError):
    """Training met NaN or infinity; the message names the batch."""


def did_you_mean(name: str, options: Iterable[str], *, limit: int = 12) -> str:
    """Return the sentence that ends an unknown-name error.

    Args:
        name: what the user wrote.
        options: the valid names.
        limit: how many valid names to list when no name is close.

    Returns:
        ``"Did you mean 'x'?"`` for a close match, otherwise the list of valid names.
    """
    known = sorted(set(options))
    lowered = {option.lower(): option for option in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{lowered[close[0]]}'?"
    if not known:
        return "Nothing is allowed here."
    shown = ", ".join(known[:limit]) + (", ..." if len(known) > limit else "")
    return f"Valid: {shown}."
