"""All objects of a scene in memory, in 22 bytes each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from d2tiny.inference.scene import Scene, SceneDetections
from d2tiny.utils.errors import DatasetError

__all__ = ["CompactDetections", "gather"]


class CompactDetections(NamedTuple):
    """Objects as arrays.

    Attributes:
        boxes: (N, 4) float32, XYXY in px of the scene; exact to 0.1 px in scenes of up to 10^6 px a side.
        scores: (N,) float32.
        classes: (N,) uint16.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def by_score(self) -> CompactDetections:
        """Return the objects by ascending score; those of one score stay in their order."""
        order = np.argsort(self.scores, kind="stable")
        return CompactDetections(*(array[order] for array in self))


def gather(scene: Scene, chunks: Iterable[SceneDetections]) -> CompactDetections:
    """Collect the objects of a scene in their order.

    Raises:
        DatasetError: a box or score is not finite, or a class is none of the scene's.
    """
    boxes, scores, classes = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)], [np.zeros(0, np.uint16)]
    for chunk in chunks:
        _check(scene, chunk)
        boxes.append(chunk.boxes.astype(np.float32).reshape(-1, 4))
        scores.append(chunk.scores.astype(np.float32))
        classes.append(chunk.classes.astype(np.uint16))
    return CompactDetections(np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes))


def _check(scene: Scene, chunk: SceneDetections) -> None:
    if not (np.isfinite(chunk.boxes).all() and np.isfinite(chunk.scores).all()):
        raise DatasetError(f"{scene.path}: boxes or scores that are no numbers (NaN or infinite) cannot be shown.")
    count = min(len(scene.classes), 1 << 16)
    if len(chunk) and (chunk.classes.min() < 0 or chunk.classes.max() >= count):
        raise DatasetError(
            f"{scene.path}: objects of classes {chunk.classes.min()} to {chunk.classes.max()}, but the scene has "
            f"{count} (0 to {count - 1})."
        )
