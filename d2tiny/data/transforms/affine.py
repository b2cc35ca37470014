"""Random affine map: scale, translation, rotation and shear in one step."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import transforms as T

__all__ = ["AffineTransform", "RandomAffine"]

FILL = 114  # grey value of pixels outside the source image, as in the YOLO recipes


class AffineTransform(T.Transform):
    """An affine map of an image onto an image of another size."""

    def __init__(self, matrix: np.ndarray, size: tuple[int, int]) -> None:
        """Create the transform.

        Args:
            matrix: (2, 3), applied to (x, y, 1) in px, where (0, 0) is the corner of the first pixel.
            size: (height, width) of the new image in px.
        """
        super().__init__()
        self.matrix, self.size = np.asarray(matrix, dtype=np.float64), size

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """Warp an image (H, W, C) with bilinear interpolation; pixels outside it become grey."""
        # In OpenCV, (0, 0) is the centre of the first pixel.
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
        """Map points (N, 2) in px."""
        return coords @ self.matrix[:, :2].T + self.matrix[:, 2]


class RandomAffine(T.Augmentation):
    """Random scale, translation, rotation and shear about the image's centre, onto an image of ``size``.

    Boxes become the axis-aligned boxes around their four mapped corners. Those that leave the image or become too small
    are turned into ignore regions by :class:`~d2tiny.data.TinyDatasetMapper`.
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
        """Create the augmentation.

        Args:
            size: (height, width) of the result in px; None keeps the size of the image.
            scale: smallest and largest factor.
            translate: largest translation, as a share of the result's sides.
            degrees: largest rotation in degrees.
            shear: largest shear in degrees, below 90.
            min_object: size √(w·h) in px under which no object is scaled; objects that are smaller already are not
                shrunk. The largest factor of ``scale`` takes precedence.

        Raises:
            ValueError: an argument outside its range.
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
        """Return a random map for an image.

        Args:
            image: (H, W, 3).
            boxes: (G, 4) XYXY in px.
            ignore: (G,) bool, ignore regions among the boxes.
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
        shear = np.tan(np.deg2rad(np.random.uniform(-1, 1, 2) * self.shear))
        rotation = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = np.array([[1.0, shear[0]], [shear[1], 1.0]]) @ rotation
        shift = np.random.uniform(-1, 1, 2) * self.translate * (new_w, new_h)
        offset = np.array([new_w / 2, new_h / 2]) + shift - linear @ (width / 2, height / 2)
        return AffineTransform(np.concatenate((linear, offset[:, None]), axis=1), (new_h, new_w))
