"""Write COCO json; a file appears under its name only when it is complete."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from d2tiny.utils.files import open_atomic

__all__ = ["write_coco", "write_coco_results"]

_BLOCK = 10_000  # entries that are encoded at a time


def write_coco(data: Mapping[str, Any], path: Path) -> None:
    """Write a COCO json: an object with ``images``, ``annotations`` and ``categories``; lists in blocks.

    Raises:
        ValueError: NaN or infinity, which json cannot hold.
    """
    with open_atomic(path) as file:
        for number, (key, value) in enumerate(data.items()):
            file.write(f"{', ' if number else '{'}{json.dumps(key)}: ".encode())
            if isinstance(value, list):
                file.writelines(_list_blocks(value))
            else:
                file.write(json.dumps(value, allow_nan=False).encode())
        file.write(b"}\n" if data else b"{}\n")


def _list_blocks(values: Sequence[Any]) -> Iterator[bytes]:
    """Yield the bytes of json.dumps; encoding all at once would take several times the memory of the file."""
    yield b"["
    for start in range(0, len(values), _BLOCK):
        text = json.dumps(values[start : start + _BLOCK], allow_nan=False)
        yield f"{', ' if start else ''}{text[1:-1]}".encode()
    yield b"]"


def write_coco_results(blocks: Iterable[Sequence[Any]], path: Path) -> None:
    """Write a COCO result json: a list of detections.

    Args:
        blocks: detections (dicts or msgspec structs), some at a time, so that only one block is in memory.
        path: of the json.
    """
    encoder = msgspec.json.Encoder()
    with open_atomic(path) as file:
        file.write(b"[")
        for number, block in enumerate(blocks):
            file.write(b",\n" if number else b"")
            file.write(encoder.encode(block)[1:-1])
        file.write(b"]\n")
