"""Photometric augmentation: changes of light, haze and sensor that do not move boxes."""

from __future__ import annotations

import cv2
import numpy as np
from detectron2.data import transforms as T

__all__ = ["Photometric"]


class Photometric(T.Augmentation):
    """Random gamma, contrast, brightness, saturation, hue and channel gain.

    All are applied with one lookup table and one conversion to HSV and back. Each argument is the largest change; 0
    disables it. Images are RGB or BGR (in BGR, hue is shifted in the opposite direction).
    """

    def __init__(
        self,
        *,
        brightness: float = 0.15,
        contrast: float = 0.25,
        gamma: float = 0.25,
        gain: float = 0.08,
        saturation: float = 0.3,
        hue: float = 6.0,
        prob: float = 0.8,
    ) -> None:
        """Create the augmentation.

        Args:
            brightness: largest offset, as a share of the value range, in [0, 1].
            contrast: factor in 1 ± contrast about the mean of the image, in [0, 1].
            gamma: exponent in (1 + gamma) ** ±1.
            gain: factor in 1 ± gain, drawn for each channel (white balance), in [0, 1].
            saturation: factor in 1 ± saturation, in [0, 1].
            hue: largest shift in degrees, in [0, 180].
            prob: probability that the image is changed, in [0, 1].

        Raises:
            ValueError: an argument outside its range.
        """
        super().__init__()
        shares = (brightness, contrast, gain, saturation, prob)
        if not all(0 <= v <= 1 for v in shares) or gamma < 0 or not 0 <= hue <= 180:
            raise ValueError("Photometric: shares lie in [0, 1], gamma is at least 0, hue lies in [0, 180].")
        self.brightness, self.contrast, self.gamma, self.gain = brightness, contrast, gamma, gain
        self.saturation, self.hue, self.prob = saturation, hue, prob

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Return a random change for an image (H, W, 3)."""
        if np.random.rand() >= self.prob:
            return T.NoOpTransform()
        exponent = (1 + self.gamma) ** np.random.uniform(-1, 1)
        contrast = 1 + np.random.uniform(-1, 1) * self.contrast
        brightness = np.random.uniform(-1, 1) * self.brightness
        gains = 1 + np.random.uniform(-1, 1, 3) * self.gain
        saturation = 1 + np.random.uniform(-1, 1) * self.saturation
        hue = np.random.uniform(-1, 1) * self.hue
        mean = float(image[::8, ::8].mean()) / 255
        levels = (np.arange(256) / 255) ** exponent
        table = ((levels - mean) * contrast + mean + brightness)[:, None] * gains
        table = (table.clip(0, 1) * 255 + 0.5).astype(np.uint8).reshape(256, 1, 3)
        return T.ColorTransform(lambda img: _apply(img, table, saturation, hue))


def _apply(image: np.ndarray, table: np.ndarray, saturation: float, hue: float) -> np.ndarray:
    image = cv2.LUT(np.ascontiguousarray(image), table)
    if saturation == 1 and hue == 0:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hues = ((np.arange(256) + hue * 256 / 360) % 256).astype(np.uint8)
    saturations = (np.arange(256) * saturation).clip(0, 255).astype(np.uint8)
    values = np.arange(256, dtype=np.uint8)
    return cv2.cvtColor(cv2.LUT(hsv, np.stack((hues, saturations, values), axis=1)[:, None]), cv2.COLOR_HSV2RGB_FULL)
