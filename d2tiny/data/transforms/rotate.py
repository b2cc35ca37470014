"""Rotations by multiples of 90°: aerial images have no upright orientation."""

from __future__ import annotations

import numpy as np
from detectron2.data import transforms as T

__all__ = ["QuarterTurn", "RandomQuarterTurn"]


class QuarterTurn(T.Transform):
    """Rotate counter-clockwise by ``turns`` × 90°, without interpolation."""

    def __init__(self, turns: int, height: int, width: int) -> None:
        """Create the transform.

        Args:
            turns: number of quarter turns.
            height: height of the image before rotation in px.
            width: width of the image before rotation in px.
        """
        super().__init__()
        self.turns, self.height, self.width = turns % 4, height, width

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Rotate an image (H, W, ...)."""
        return np.ascontiguousarray(np.rot90(img, self.turns))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Rotate points (N, 2) in px."""
        x, y = coords[:, 0], coords[:, 1]
        width, height = self.width, self.height
        turned = [(x, y), (y, width - x), (width - x, height - y), (height - y, x)][self.turns]
        return np.stack(turned, axis=1)

    def inverse(self) -> T.Transform:
        """Return the opposite rotation."""
        turned = self.turns % 2
        return QuarterTurn(-self.turns, *((self.width, self.height) if turned else (self.height, self.width)))


class RandomQuarterTurn(T.Augmentation):
    """Rotate by 0°, 90°, 180° or 270° with equal probability."""

    def __init__(self) -> None:
        """Create the augmentation; it has no arguments."""
        super().__init__()

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return a random rotation for an image (H, W, 3)."""
        return QuarterTurn(int(np.random.randint(4)), *image.shape[:2])
