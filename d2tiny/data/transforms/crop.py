"""Random crops that contain objects more often than uniform ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T

__all__ = ["ObjectCrop"]


class ObjectCrop(T.Augmentation):
    """A crop of fixed size that contains a random object with a given probability, and is uniformly random otherwise.

    Images are not padded: a side that is shorter than the crop is kept.
    """

    def __init__(self, size: Sequence[int], object_prob: float = 0.8) -> None:
        """Create the augmentation.

        Args:
            size: (height, width) of the crop in px.
            object_prob: probability that the crop is positioned around a random object, in [0, 1].

        Raises:
            ValueError: an argument outside its range.
        """
        super().__init__()
        if len(size) != 2 or min(size) < 1 or not 0 <= object_prob <= 1:
            raise ValueError(f"ObjectCrop: bad size {tuple(size)} or object_prob {object_prob}.")
        self.size = (int(size[0]), int(size[1]))
        self.object_prob = object_prob

    def get_transform(self, image: np.ndarray, boxes: np.ndarray, ignore: np.ndarray) -> T.Transform:
        """Return a random crop for an image.

        Args:
            image: (H, W, 3).
            boxes: (G, 4) XYXY in px.
            ignore: (G,) bool, ignore regions among the boxes.
        """
        boxes = boxes[~ignore]
        height, width = image.shape[:2]
        crop_h, crop_w = min(self.size[0], height), min(self.size[1], width)
        chosen = None
        if len(boxes) and np.random.rand() < self.object_prob:
            chosen = boxes[np.random.randint(len(boxes))]
        x0 = self._start(width, crop_w, None if chosen is None else (chosen[0], chosen[2]))
        y0 = self._start(height, crop_h, None if chosen is None else (chosen[1], chosen[3]))
        return T.CropTransform(x0, y0, crop_w, crop_h, width, height)

    @staticmethod
    def _start(side: int, crop: int, span: tuple[float, float] | None) -> int:
        """Return a random start of the crop along one axis in px; the crop contains ``span`` if that is possible."""
        low, high = 0, side - crop
        if span is not None:
            first, last = int(np.ceil(span[1])) - crop, int(np.floor(span[0]))
            if first <= last:
                low, high = max(low, first), min(high, last)
            else:  # an object larger than the crop: centre the crop on it
                low = high = int((span[0] + span[1] - crop) / 2)
            low, high = min(max(low, 0), side - crop), min(max(high, 0), side - crop)
        return int(np.random.randint(low, high + 1)) if high >= low else low
