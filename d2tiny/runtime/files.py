"""Which file an exported model is, and what it says of itself, read without any runtime."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from d2tiny.runtime.metadata import DIGEST_KEY, KEY
from d2tiny.utils.download import sha256_of
from d2tiny.utils.errors import CheckpointError

__all__ = ["SUFFIXES", "check_xml", "files_of", "find_model", "onnx_metadata", "seal"]

SUFFIXES = (".onnx", ".xml")
_SEAL = b"\n<!-- sha256 ", b" -->\n"  # around the checksum that ends an ``.xml``
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
            f"{place}: this is a checkpoint, not an exported model: give it as --weights with its --config, or export "
            "it with d2tiny export."
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


def seal(path: Path) -> None:
    """Append a checksum to a model that is complete, so that what changes in it later is noticed when it is loaded.

    An ONNX file stays one: the checksum is in its ``metadata_props``. In an ``.xml`` it is a comment, also of the
    ``.bin``.

    Args:
        path: ``.onnx`` or ``.xml``.
    """
    if path.suffix.lower() == ".xml":
        end = _xml_digest(path, path.read_bytes()).join(_SEAL)
    else:
        value = sha256_of(path).encode()
        pair = b"".join(_encoded(number, text) for number, text in ((1, DIGEST_KEY.encode()), (2, value)))
        end = _encoded(_METADATA_PROPS, pair)
    with path.open("ab") as file:
        file.write(end)


def check_xml(path: Path) -> None:
    """Refuse an ``.xml`` that is no model, or that :func:`seal` sealed and that is not what it was.

    OpenVINO would try to read what is no model as a file of every other library.

    Raises:
        CheckpointError: it is.
    """
    content = path.read_bytes()
    if b"<net" not in content[:4096]:
        raise CheckpointError(f"{path}: this is no model of OpenVINO, or a damaged one. Export it again.")
    text, found, end = content.rpartition(_SEAL[0])
    if found and end != _xml_digest(path, text) + _SEAL[1]:
        raise CheckpointError(
            f"{path} is damaged, or its .bin is: they do not have their checksum. Copy them again, or export again."
        )


def _xml_digest(path: Path, content: bytes) -> bytes:
    """Return the checksum of an ``.xml`` and its ``.bin``."""
    return hashlib.sha256(content + sha256_of(path.with_suffix(".bin")).encode()).hexdigest().encode()


def _encoded(number: int, content: bytes) -> bytes:
    """Return a field of under 16 kB of a protobuf message."""
    length = bytes((len(content),)) if len(content) < 128 else bytes((len(content) & 0x7F | 0x80, len(content) >> 7))
    return bytes((number << 3 | _LENGTH_DELIMITED,)) + length + content


def onnx_metadata(path: Path) -> str | None:
    """Return the json text that an ONNX file has under ``d2tiny`` in its ``metadata_props``; None without one.

    Only the outermost level of the file is walked through, so that what is cut off is noticed at no cost. Where
    :func:`seal` wrote a checksum, it is compared.

    Raises:
        CheckpointError: the file is damaged, or cut off.
    """
    found: dict[bytes | None, tuple[int, bytes]] = {}
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for entry in _fields(data):
                if entry.number == _METADATA_PROPS and entry.content is not None:
                    pair = {field.number: field.content for field in _fields(entry.content)}
                    found[pair.get(1)] = entry.start, pair.get(2) or b""
            if DIGEST_KEY.encode() in found:
                place, digest = found[DIGEST_KEY.encode()]
                if hashlib.sha256(memoryview(data)[:place]).hexdigest().encode() != digest:
                    raise _DamageError("it does not have its checksum")
        return found[KEY.encode()][1].decode("utf-8") if KEY.encode() in found else None
    except (_DamageError, UnicodeDecodeError) as err:
        raise CheckpointError(f"{path} is no ONNX file, or damaged: {err}. Copy it again, or export it again.") from err
    except OSError as err:
        raise CheckpointError(f"{path}: cannot read this file: {err.strerror or err}.") from err


class _DamageError(ValueError):
    """These bytes are no protobuf."""


class _Field(NamedTuple):
    start: int
    number: int
    content: bytes | None  # of what has a length and is not very long


def _fields(data: bytes | mmap.mmap) -> Iterator[_Field]:
    """Yield the fields of a protobuf message."""
    place, end = 0, len(data)
    while place < end:
        start = place
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
        yield _Field(start, number, content)


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
