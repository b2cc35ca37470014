"""Files that are whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from d2tiny.utils.errors import ConfigError, DatasetError

__all__ = ["open_whole", "read_json", "write_text"]


@contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name at the end only.

    A process that is killed or an exception inside leaves the old file, or none; never half of the new one.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file in it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) as :func:`open_whole` does."""
    with open_whole(path) as file:
        file.write(text.encode("utf-8"))


def read_json(path: Path) -> Any:
    """Read a json file, also with the NaN and Infinity that Python's json writes.

    Raises:
        DatasetError: there is no such file, or it is not json; says where.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError as err:
        raise DatasetError(f"{path}: no such file.") from err
    except IsADirectoryError as err:
        raise DatasetError(f"{path} is a folder, not a json file.") from err
    try:
        return msgspec.json.decode(text)  # several times faster than json
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return json.loads(text.decode("utf-8-sig"))  # knows NaN, and the line of a mistake
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise DatasetError(f"{path} is not a valid json file: {err}. Is it complete?") from err
