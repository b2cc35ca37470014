"""Scale, shift, turn and shear in one step, onto an image of a given size."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import transforms as T

__all__ = ["AffineTransform", "RandomAffine"]

FILL = 114  # grey of what lies outside the image, as in the YOLO recipes


class AffineTransform(T.Transform):
    """An affine map of an image onto another of any size."""

    def __init__(self, matrix: np.ndarray, size: tuple[int, int]) -> None:
        """Set the map.

        Args:
            matrix: (2, 3), of (x, y, 1) of corners of pixels.
            size: (height, width) of the new image.
        """
        super().__init__()
        self.matrix, self.size = np.asarray(matrix, dtype=np.float64), size

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Warp (H, W, C), linearly; what lies outside is grey."""
        # OpenCV counts in middles of pixels.
        matrix = self.matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
        height, width = self.size
        return cv2.warpAffine(
            img,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(FILL,) * 3,
        )

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Map (N, 2) points."""
        return coords @ self.matrix[:, :2].T + self.matrix[:, 2]


class RandomAffine(T.Augmentation):
    """Random scale, shift, rotation and shear about the image's middle, onto an image of ``size``.

    Boxes become the upright boxes around the four corners; where they leave the image or get too small,
    :class:`~d2tiny.data.TinyDatasetMapper` ignores them instead of losing them.
    """

    def __init__(
        self,
        size: Sequence[int] | None = None,
        *,
        scale: Sequence[float] = (0.5, 1.5),
        translate: float = 0.1,
        degrees: float = 0.0,
        shear: float = 0.0,
        min_object: float = 0.0,
    ) -> None:
        """Set the ranges.

        Args:
            size: (height, width) of the result; None keeps the image's.
            scale: smallest and largest factor.
            translate: largest shift, share of the new sides.
            degrees: largest rotation.
            shear: largest shear, degrees.
            min_object: no object that has so many px (√(w·h)) is scaled under them, smaller ones are never shrunk, as
            far
                as the largest factor allows.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] or translate < 0 or degrees < 0 or not 0 <= shear < 90:
            raise ValueError(
                f"RandomAffine: bad scale {tuple(scale)}, translate {translate}, degrees {degrees} or shear {shear}."
            )
        if min_object < 0 or (size is not None and (len(size) != 2 or min(size) < 1)):
            raise ValueError(f"RandomAffine: bad size {size} or min_object {min_object}.")
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.scale, self.translate = (float(scale[0]), float(scale[1])), float(translate)
        self.degrees, self.shear, self.min_object = float(degrees), float(shear), float(min_object)

    def get_transform(self, image: np.ndarray, boxes: np.ndarray, ignore: np.ndarray) -> T.Transform:
        """Choose the map.

        Args:
            image: (H, W, 3).
            boxes: (G, 4) XYXY.
            ignore: (G,) boolean, boxes that are no objects.
        """
        height, width = image.shape[:2]
        new_h, new_w = self.size or (height, width)
        low, high = self.scale
        if self.min_object and len(
            sides := np.sqrt((boxes[~ignore, 2:] - boxes[~ignore, :2]).clip(min=0).prod(axis=1))
        ):
            low = min(max(low, min(1.0, self.min_object / max(float(sides.min()), 1e-6))), high)
        factor = np.random.uniform(low, high)
        angle = np.deg2rad(np.random.uniform(-1, 1) * self.degrees)
        slant = np.tan(np.deg2rad(np.random.uniform(-1, 1, 2) * self.shear))
        turn = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = np.array([[1.0, slant[0]], [slant[1], 1.0]]) @ turn
        shift = np.random.uniform(-1, 1, 2) * self.translate * (new_w, new_h)
        middle = np.array([new_w / 2, new_h / 2]) + shift - linear @ (width / 2, height / 2)
        return AffineTransform(np.concatenate((linear, middle[:, None]), axis=1), (new_h, new_w))
