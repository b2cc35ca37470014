"""What a door of the fuzz tests is, and the good documents that several of them take."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.mutate import mutated_bytes, mutated_json, mutated_numbers

COCO = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in (1, 2)],
    "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "ship"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [10, 10, 8, 6],
            "area": 48,
            "iscrowd": 0,
            "segmentation": [[]],
        },
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [50.5, 9, 4, 4], "area": 16.0, "iscrowd": 1, "ignore": 1},
    ],
}
FOUND = [
    {"image_id": 1, "category_id": 1, "bbox": [10, 10, 8, 6], "score": 0.5},
    {"image_id": 2, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 1},
]


@dataclass(frozen=True)
class Door:
    """``file`` in a prepared folder gets broken content; ``read`` takes the folder.

    ``writes`` is the folder that reading may write to, and ``every`` how many inputs of other doors one of a slow door
    counts for.
    """

    file: str
    broken: Callable[..., bytes]
    read: Callable[[Path], object]
    writes: str = ""
    every: int = 1


def of_json(document):
    """Return what breaks a COCO-like document: its nodes, or the text."""
    text = json.dumps(document).encode()
    return lambda rng: mutated_json(rng, document) if rng.integers(3) else mutated_bytes(rng, text)


def of_numbers(document):
    """Return what exchanges numbers of a COCO-like document."""
    return lambda rng: mutated_numbers(rng, document)


def of_bytes(*contents, **options):
    """Return what breaks one of several good contents."""
    return lambda rng: mutated_bytes(rng, contents[rng.integers(len(contents))], **options)
