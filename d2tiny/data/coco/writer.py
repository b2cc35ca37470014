"""Write COCO json; a file appears under its name only when it is complete."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from d2tiny.utils.files import open_atomic, write_text

__all__ = ["write_coco", "write_coco_results"]


def write_coco(data: Mapping[str, Any], path: Path) -> None:
    """Write a COCO json: an object with ``images``, ``annotations`` and ``categories``.

    Raises:
        ValueError: NaN or infinity, which json cannot hold.
    """
    write_text(path, json.dumps(data, allow_nan=False) + "\n")


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
