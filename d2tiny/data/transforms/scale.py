"""Scales: a fixed factor, and a random one with a lower limit for the size of objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T

__all__ = ["GuardedScale", "ResizeByFactor"]


class ResizeByFactor(T.Augmentation):
    """Scale every image by the same factor: small objects get larger for the detector, whatever the image's size."""

    def __init__(self, factor: float) -> None:
        """Create the augmentation.

        Args:
            factor: of both sides, over 0.

        Raises:
            ValueError: a factor of 0 or less.
        """
        super().__init__()
        if not factor > 0:
            raise ValueError(f"ResizeByFactor: factor={factor} must be over 0.")
        self.factor = float(factor)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return the scale of an image (H, W, 3) or (H, W)."""
        height, width = image.shape[:2]
        return T.ResizeTransform(height, width, max(1, round(height * self.factor)), max(1, round(width * self.factor)))


class GuardedScale(T.Augmentation):
    """Scale by a random factor that makes no object smaller than ``min_object``.

    The lower end of the range is raised for each image so that objects of at least ``min_object`` px keep that size,
    and smaller objects are not shrunk at all. Images without objects use the full range.
    """

    def __init__(self, scales: Sequence[float] = (0.5, 2.0), min_object: float = 4.0, max_side: int = 4096) -> None:
        """Create the augmentation.

        Args:
            scales: smallest and largest factor; its logarithm is drawn uniformly.
            min_object: smallest size √(w·h) of an object in px.
            max_side: limit for the longer side of the image in px; images that exceed it already are not shrunk.

        Raises:
            ValueError: an argument outside its range.
        """
        super().__init__()
        if len(scales) != 2 or not 0 < scales[0] <= scales[1] or min_object < 0 or max_side < 1:
            raise ValueError(f"GuardedScale: bad scales {tuple(scales)}, min_object {min_object}, max_side {max_side}.")
        self.scales = (float(scales[0]), float(scales[1]))
        self.min_object = float(min_object)
        self.max_side = int(max_side)

    def get_transform(self, image: np.ndarray, boxes: np.ndarray, ignore: np.ndarray) -> T.Transform:
        """Return a random scale for an image.

        Args:
            image: (H, W, 3).
            boxes: (G, 4) XYXY in px.
            ignore: (G,) bool, ignore regions among the boxes.
        """
        height, width = image.shape[:2]
        low, high = self.scales
        sides = np.sqrt((boxes[~ignore, 2:] - boxes[~ignore, :2]).prod(axis=1))
        if len(sides):
            # an object at or below the limit must not be shrunk
            low = max(low, min(1.0, self.min_object / max(float(sides.min()), 1e-6)))
        limit = max(1.0, self.max_side / max(height, width))
        low = min(low, limit)
        high = max(low, min(high, limit))
        factor = float(np.exp(np.random.uniform(np.log(low), np.log(high))))
        # rounded up, so that rounding does not push an object below the limit
        return T.ResizeTransform(
            height, width, int(np.ceil(height * factor - 1e-6)), int(np.ceil(width * factor - 1e-6))
        )
