"""Write files atomically, and read json with messages that say what is wrong."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.folders import mark_written, remove_leftovers

__all__ = ["name_atomic", "open_atomic", "read_json", "write_text"]

_CLEANED: set[Path] = set()  # folders that this process has written to


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing; it replaces the file at ``path`` when the block ends without an exception.

    A process that is killed or an exception in the block leaves the old file, or none, but never an incomplete one. The
    file that is written until then has a name that nobody can foresee, and it is never one that exists: in folders that
    others can write to, no link of theirs is written through. What killed processes left in the folder is removed when
    this process first writes there.

    Raises:
        ConfigError: ``path`` is a folder.
    """
    temporary = _prepared(path)
    file = temporary.open("xb")
    try:
        with file:
            mark_written(file.fileno())
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def name_atomic(path: Path) -> Iterator[Path]:
    """Yield the name of a file to write, for libraries that open files by their name; else as :func:`open_atomic`.

    The file has the name of ``path`` in a hidden folder beside it, which is removed with all that was written there
    (journals, temporary files) when the block ends. Without an exception in the block, the file must then exist.

    Raises:
        ConfigError: ``path`` is a folder.
    """
    folder = _prepared(path)
    folder.mkdir()
    try:
        descriptor = os.open(folder, os.O_RDONLY) if hasattr(os, "O_DIRECTORY") else None
        try:
            if descriptor is not None:
                mark_written(descriptor)
            yield folder / path.name
            (folder / path.name).replace(path)
        finally:
            if descriptor is not None:
                os.close(descriptor)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepared(path: Path) -> Path:
    """Return a hidden name beside a file that is to be written, in a folder that exists and has no leftovers."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file in it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent not in _CLEANED:
        _CLEANED.add(path.parent)
        remove_leftovers(path.parent)
    # Names have at most 255 bytes.
    return path.with_name(f".{os.fsdecode(os.fsencode(path.name)[:200])}.{os.getpid()}.{secrets.token_hex(8)}")


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) atomically, see :func:`open_atomic`."""
    with open_atomic(path) as file:
        file.write(text.encode("utf-8"))


def read_json(path: Path) -> Any:
    """Read a json file, also one with the NaN and Infinity that Python's json module writes.

    Raises:
        DatasetError: there is no such file, or it is not json; says in which line and column. Also what no tool could
            write again: values that are nested too deep, numbers of thousands of digits, halves of surrogate pairs.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError as err:
        raise DatasetError(f"{path}: no such file.") from err
    except IsADirectoryError as err:
        raise DatasetError(f"{path} is a folder, not a json file.") from err
    except (OSError, ValueError) as err:  # no rights, a name that is too long or none
        raise DatasetError(f"{path}: cannot read this file ({getattr(err, 'strerror', None) or err}).") from err
    try:
        return msgspec.json.decode(text)  # several times faster than json
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    except RecursionError as err:
        raise DatasetError(f"{path}: its values are nested too deep to be read.") from err
    try:
        return _read_leniently(text.decode("utf-8-sig"))  # knows NaN, and the line of a mistake
    except (json.JSONDecodeError, UnicodeError) as err:
        raise DatasetError(f"{path} is not a valid json file: {err}. Is it complete?") from err
    except RecursionError as err:
        raise DatasetError(f"{path}: its values are nested too deep to be read.") from err
    except ValueError as err:
        raise DatasetError(f"{path}: a number has too many digits ({err}).") from err


def _read_leniently(text: str) -> Any:
    """Decode a json with Python's module, which unlike msgspec accepts half a surrogate pair; refuse that."""
    data = json.loads(text)
    escape = re.search(r"\\u[dD][89a-fA-F]", text)
    if escape is not None:
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError as err:
            line = text.count("\n", 0, escape.start()) + 1
            raise UnicodeError(f"half of a surrogate pair (\\ud800 to \\udfff) from line {line} on") from err
    return data
