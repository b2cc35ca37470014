"""Errors for users, and the hint that ends messages about unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "D2TinyError",
    "DatasetError",
    "ImageError",
    "MissingPackageError",
    "NonFiniteLossError",
    "did_you_mean",
]


class D2TinyError(Exception):
    """Base class of errors that a user can fix; command-line tools print them without a traceback."""


class ConfigError(D2TinyError, ValueError):
    """A config refers to something that does not exist, or its parts do not fit together."""


class DatasetError(D2TinyError, ValueError):
    """A dataset is missing or invalid; the message names the file."""


class ImageError(D2TinyError, ValueError):
    """An array or tensor is no image as a detector takes it; the message says what is, and how to convert it."""


class CheckpointError(D2TinyError, RuntimeError):
    """A checkpoint cannot be read or does not fit the model."""


class MissingPackageError(D2TinyError, ImportError):
    """A package that d2tiny does not need for everything is not installed; the message names the extra that has it."""


class NonFiniteLossError(D2TinyError, FloatingPointError):
    """A loss or gradient became NaN or infinite; the message names the images of the batch."""


def did_you_mean(name: str, options: Iterable[str], *, limit: int = 12) -> str:
    """Return the last sentence of an error message about an unknown name.

    Args:
        name: what the user wrote.
        options: the valid names.
        limit: number of valid names to list if none is similar.

    Returns:
        ``"Did you mean 'x'?"`` if a name is similar, otherwise the list of valid names.
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
