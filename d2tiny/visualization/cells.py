"""Drawing of maps with one value for each cell over an image."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["QUERY_COLOR", "blend_cells", "draw_density"]

QUERY_COLOR = (0, 255, 200)


def blend_cells(image: np.ndarray, colors: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Blend one colour for each cell over a darker grey copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB; it is not modified.
        colors: (h, w, 3) RGB, 0 to 255.
        opacity: (h, w) in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB.
    """
    size = image.shape[1::-1]
    colors = cv2.resize(colors.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    alpha = cv2.resize(opacity.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)[..., None]
    grey = image.mean(axis=2, keepdims=True) * 0.7
    blended: np.ndarray = (grey * (1 - alpha) + colors * alpha).clip(0, 255).astype(np.uint8)
    return blended


def draw_density(image: np.ndarray, density: np.ndarray | None, points: np.ndarray) -> np.ndarray:
    """Draw a density map over an image, and points on both.

    Args:
        image: (H, W, 3) uint8 RGB; it is not modified.
        density: (h, w), at least 0; its largest value is the brightest. None draws the points alone.
        points: (N, 2) centres x, y in px of the image.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    density = np.zeros((1, 1)) if density is None else density
    share = density / max(density.max(), 1e-6)
    heat = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)
    picture = blend_cells(image, heat[:, :, ::-1], np.sqrt(share))
    for x, y in np.round(points).astype(int).tolist():
        cv2.circle(picture, (x, y), 1, QUERY_COLOR, -1)
    return picture
