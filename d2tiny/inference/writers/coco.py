"""COCO json with scores, of one scene or many; annotations go to the disk as they come."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from d2tiny.data.coco.boxes import box_xyxy_to_xywh
from d2tiny.inference.scene import Scene, SceneDetections
from d2tiny.inference.writers.table import blocks, check
from d2tiny.utils.errors import ConfigError
from d2tiny.utils.files import open_atomic

__all__ = ["CocoWriter", "annotation_texts", "categories_text", "coco_file", "image_text", "open_coco"]

_ENTRY = (
    '{{"id": %d, "image_id": {image}, "category_id": %d, "bbox": [%r, %r, %r, %r], "area": %r, "score": %r, '
    '"iscrowd": 0}}'
)


def image_text(scene: Scene, number: int) -> str:
    """Return the text of a scene's entry in ``images``."""
    entry = {"id": number, "file_name": scene.path, "width": scene.width, "height": scene.height}
    return json.dumps(entry)


def categories_text(classes: Sequence[str]) -> str:
    """Return the text of ``categories``; ids from 1."""
    return json.dumps([{"id": number, "name": name} for number, name in enumerate(classes, start=1)])


def annotation_texts(block: SceneDetections, number: int, first: int) -> list[str]:
    """Return the text of each annotation: boxes XYWH in px with 2 decimals, scores with 4.

    Args:
        block: objects.
        number: id of their image.
        first: id of the first annotation.
    """
    entry = _ENTRY.format(image=number)
    texts = []
    rows = zip(block.boxes.tolist(), block.scores.tolist(), block.classes.tolist(), strict=True)
    for identity, (box, score, cls) in enumerate(rows, start=first):
        x, y, w, h = box_xyxy_to_xywh(box)
        values = round(x, 2), round(y, 2), round(w, 2), round(h, 2), round(w * h, 2), round(score, 4)
        texts.append(entry % (identity, cls + 1, *values))
    return texts


class CocoWriter:
    """Writes scenes and their objects; see :func:`open_coco`."""

    def __init__(self, images: BinaryIO, entries: BinaryIO, classes: Sequence[str]) -> None:
        self._images = images
        self._entries = entries
        self._classes = tuple(classes)
        self._last: Scene | None = None
        self._numbers = 0
        self.count = 0

    def add_scene(self, scene: Scene) -> None:
        """Add a scene, also one without objects.

        Raises:
            ConfigError: its classes are not those of the file.
        """
        if scene.classes != self._classes:
            raise ConfigError(
                f"{scene.path}: a COCO file has one list of classes, {self._classes}, this scene has {scene.classes}."
            )
        self._images.write(f"{', ' if self._numbers else ''}{image_text(scene, self._numbers + 1)}".encode())
        self._last = scene
        self._numbers += 1

    def write(self, chunk: SceneDetections) -> None:
        """Add objects. Chunks of a scene follow one another; the first adds the scene where it was not added.

        Raises:
            DatasetError: boxes that are not finite, classes that do not exist.
            ConfigError: as :meth:`add_scene`.
        """
        check(chunk)
        if self._last is None or self._last.path != chunk.scene.path:
            self.add_scene(chunk.scene)
        for block in blocks(chunk):
            texts = annotation_texts(block, self._numbers, self.count + 1)
            self._entries.write(f"{', ' if self.count else ''}{', '.join(texts)}".encode())
            self.count += len(block)


@contextmanager
def open_coco(path: Path, classes: Sequence[str]) -> Iterator[CocoWriter]:
    """Write a COCO json with the objects of several scenes; nothing of them stays in memory.

    The bytes are those of :func:`~d2tiny.data.coco.writer.write_coco`. Without an exception in the block the file is
    complete, else it does not appear.

    Args:
        path: of the json.
        classes: K names; the category of class 0 has the id 1.
    """
    with open_atomic(path) as file, tempfile.TemporaryFile(dir=path.parent) as entries:
        file.write(b'{"images": [')
        yield CocoWriter(file, entries, classes)
        file.write(b'], "annotations": [')
        entries.seek(0)
        shutil.copyfileobj(entries, file, 1 << 20)
        file.write(f'], "categories": {categories_text(classes)}}}\n'.encode())


@contextmanager
def coco_file(path: Path, scene: Scene) -> Iterator[Callable[[SceneDetections], None]]:
    """Write a COCO json of one scene."""
    with open_coco(path, scene.classes) as writer:
        writer.add_scene(scene)
        yield writer.write
