"""Which file an exported model is, and what it says of itself, read without any runtime."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from d2tiny.runtime.metadata import KEY
from d2tiny.utils.errors import CheckpointError

__all__ = ["SUFFIXES", "files_of", "find_model", "onnx_metadata"]

SUFFIXES = (".onnx", ".xml")
_TORCHSCRIPT = (".pt", ".ts", ".torchscript")
_CHECKPOINTS = (".pth", ".pkl", ".pyth")
_METADATA_PROPS = 14  # field numbers of onnx.ModelProto
_LENGTH_DELIMITED, _VARINT, _FIXED = 2, 0, {1: 8, 5: 4}  # wire types of protobuf


def find_model(path: str | os.PathLike[str]) -> Path:
    """Return the ``.onnx`` or ``.xml`` of a path, which may be a folder with one of them.

    Raises:
        CheckpointError: there is none, there are several, or it is a file of another kind; says what to do.
    """
    place = Path(path)
    if place.is_dir():
        found = sorted(p for p in place.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if len(found) != 1:
            names = ", ".join(p.name for p in found)
            what = f"has several models ({names}); name one" if found else "has no model.onnx or model.xml"
            raise CheckpointError(f"{place}: this folder {what}.")
        place = found[0]
    suffix = place.suffix.lower()
    if suffix in _TORCHSCRIPT:
        raise CheckpointError(
            f"{place}: a TorchScript file needs PyTorch: load it with torch.jit.load. Without PyTorch, run an export "
            "with --format onnx or openvino."
        )
    if suffix in _CHECKPOINTS:
        raise CheckpointError(
            f"{place}: this is a checkpoint, not an exported model: give it as --weights with its --config, or export it."
        )
    if not place.is_file():
        raise CheckpointError(f"{place}: no such file. Name a model.onnx, a model.xml, or the folder of one.")
    if suffix not in SUFFIXES:
        raise CheckpointError(f"{place}: not an exported model; name a model.onnx or a model.xml.")
    if not place.stat().st_size:
        raise CheckpointError(f"{place} is empty (0 bytes): it was cut off when it was written or copied.")
    if suffix == ".xml" and not place.with_suffix(".bin").is_file():
        raise CheckpointError(f"{place}: {place.with_suffix('.bin').name}, which holds its weights, is not beside it.")
    return place


def files_of(path: Path) -> list[Path]:
    """Return all files of a model: an ``.xml`` has a ``.bin``, an ``.onnx`` may have ``.onnx.data``."""
    others = [path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path.with_name(f"{path.name}.data")]
    return [path, *(other for other in others if other.is_file())]


def onnx_metadata(path: Path) -> str | None:
    """Return the json text that an ONNX file has under ``d2tiny`` in its ``metadata_props``; None without one.

    Only the outermost level of the file is walked through, so that this costs nothing, and what is cut off is noticed.

    Raises:
        CheckpointError: the file is damaged, or cut off.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for entry in _fields(data):
                if entry.number == _METADATA_PROPS and entry.content is not None:
                    pair = {field.number: field.content for field in _fields(entry.content)}
                    if pair.get(1) == KEY.encode():
                        return (pair.get(2) or b"").decode("utf-8")
    except (_DamageError, UnicodeDecodeError) as err:
        raise CheckpointError(
            f"{path} is no ONNX file, or damaged ({err}). Copy it again, or export it again."
        ) from err
    except OSError as err:
        raise CheckpointError(f"{path}: cannot read this file: {err.strerror or err}.") from err
    return None


class _DamageError(ValueError):
    """These bytes are no protobuf."""


class _Field(NamedTuple):
    number: int
    content: bytes | None  # of what has a length and is not very long


def _fields(data: bytes | mmap.mmap) -> Iterator[_Field]:
    """Yield the fields of a protobuf message."""
    place, end = 0, len(data)
    while place < end:
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        content = None
        if kind == _VARINT:
            _, place = _varint(data, place)
        elif kind == _LENGTH_DELIMITED:
            length, place = _varint(data, place)
            if place + length > end:
                raise _DamageError(f"it has {end:,} bytes and needs at least {place + length:,}")
            if length < 1 << 20:
                content = data[place : place + length]
            place += length
        elif kind in _FIXED:
            place += _FIXED[kind]
        else:
            raise _DamageError(f"byte {place:,} cannot be there")
        if not number or place > end:
            raise _DamageError("its end is missing" if number else f"byte {place:,} cannot be there")
        yield _Field(number, content)


def _varint(data: bytes | mmap.mmap, place: int) -> tuple[int, int]:
    """Return an integer of seven bits a byte, and where it ends."""
    value = 0
    for i in range(10):
        if place + i >= len(data):
            raise _DamageError("its end is missing")
        byte = data[place + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, place + i + 1
    raise _DamageError(f"byte {place:,} cannot be there")
