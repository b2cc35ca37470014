"""Light, haze and sensor: changes of colour that leave boxes alone."""

from __future__ import annotations

import cv2
import numpy as np
from detectron2.data import transforms as T

__all__ = ["Photometric"]


class Photometric(T.Augmentation):
    """Random gamma, contrast, brightness, saturation, hue and channel gain, in one table lookup and one conversion.

    Each setting is the largest change; 0 switches it off. Images are RGB or BGR (hue turns the other way in BGR).
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
        """Set the ranges.

        Args:
            brightness: shift, share of the full range.
            contrast: factor 1 ± contrast about the middle of the image's own range.
            gamma: exponent within (1 + gamma) ** ±1.
            gain: factor 1 ± gain of each channel by itself (white balance).
            saturation: factor 1 ± saturation.
            hue: turn in degrees.
            prob: how often anything happens, in [0, 1].

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        shares = (brightness, contrast, gain, saturation, prob)
        if not all(0 <= v <= 1 for v in shares) or gamma < 0 or not 0 <= hue <= 180:
            raise ValueError("Photometric: shares lie in [0, 1], gamma is at least 0, hue lies in [0, 180].")
        self.brightness, self.contrast, self.gamma, self.gain = brightness, contrast, gamma, gain
        self.saturation, self.hue, self.prob = saturation, hue, prob

    def get_transform(self, image: np.ndarray) -> T.Transform:
        """Choose the change."""
        if np.random.rand() >= self.prob:
            return T.NoOpTransform()
        exponent = (1 + self.gamma) ** np.random.uniform(-1, 1)
        slope = 1 + np.random.uniform(-1, 1) * self.contrast
        shift = np.random.uniform(-1, 1) * self.brightness
        gains = 1 + np.random.uniform(-1, 1, 3) * self.gain
        saturation = 1 + np.random.uniform(-1, 1) * self.saturation
        turn = np.random.uniform(-1, 1) * self.hue
        middle = float(image[::8, ::8].mean()) / 255
        levels = (np.arange(256) / 255) ** exponent
        table = ((levels - middle) * slope + middle + shift)[:, None] * gains
        table = (table.clip(0, 1) * 255 + 0.5).astype(np.uint8).reshape(256, 1, 3)
        return T.ColorTransform(lambda img: _apply(img, table, saturation, turn))


def _apply(image: np.ndarray, table: np.ndarray, saturation: float, turn: float) -> np.ndarray:
    image = cv2.LUT(np.ascontiguousarray(image), table)
    if saturation == 1 and turn == 0:
        return image
    hls = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hue = ((np.arange(256) + turn * 256 / 360) % 256).astype(np.uint8)
    full = (np.arange(256) * saturation).clip(0, 255).astype(np.uint8)
    same = np.arange(256, dtype=np.uint8)
    return cv2.cvtColor(cv2.LUT(hls, np.stack((hue, full, same), axis=1)[:, None]), cv2.COLOR_HSV2RGB_FULL)
