"""Detections of one image as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["ArrayDetections", "ArrayInstances"]


class ArrayDetections(NamedTuple):
    """What was found in one image, by falling score.

    Attributes:
        boxes: (N, 4) float32, XYXY in px of the image.
        scores: (N,) float32, in [0, 1].
        classes: (N,) int32, from 0 to K - 1.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def take(self, index: np.ndarray) -> ArrayDetections:
        """Return those of an index or a mask."""
        return ArrayDetections(self.boxes[index], self.scores[index], self.classes[index])

    def scaled(self, size: tuple[int, int], target: tuple[int, int]) -> ArrayDetections:
        """Return them in px of an image that was resized to the one they are of, clipped to it, as Detectron2 does.

        Args:
            size: (height, width) in px of the image that the boxes are of.
            target: likewise of the original; boxes that have no area in it are left out.
        """
        factors = np.array((target[1] / size[1], target[0] / size[0]) * 2, np.float32)
        limits = np.array((target[1], target[0]) * 2, np.float32)
        boxes = (self.boxes * factors).clip(np.float32(0), limits)
        kept = np.asarray((boxes[:, 2:] > boxes[:, :2]).all(axis=1))
        return ArrayDetections(boxes, self.scores, self.classes).take(kept)

    @classmethod
    def of(cls, found: Any) -> ArrayDetections:
        """Return Detectron2's ``Instances`` on the CPU, or :class:`ArrayInstances`, as arrays."""
        if isinstance(found, cls):
            return found
        if isinstance(found, ArrayInstances):
            return cls(found.pred_boxes, found.scores, found.pred_classes.astype(np.int32))
        classes = found.pred_classes.numpy().astype(np.int32)
        return cls(found.pred_boxes.tensor.float().numpy(), found.scores.float().numpy(), classes)


@dataclass(frozen=True, eq=False)
class ArrayInstances:
    """Detections of one image under the names of Detectron2's ``Instances``, as numpy arrays.

    Attributes:
        image_size: (height, width) in px.
        pred_boxes: (N, 4) float32, XYXY in px of the image.
        scores: (N,) float32, in [0, 1].
        pred_classes: (N,) int64, from 0 to K - 1.
    """

    image_size: tuple[int, int]
    pred_boxes: np.ndarray
    scores: np.ndarray
    pred_classes: np.ndarray

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.scores)

    @classmethod
    def of(cls, size: tuple[int, int], found: ArrayDetections) -> ArrayInstances:
        """Return the detections of an image of a size (height, width) in px."""
        boxes, scores = found.boxes.astype(np.float32, copy=False), found.scores.astype(np.float32, copy=False)
        return cls(size, boxes, scores, found.classes.astype(np.int64, copy=False))
