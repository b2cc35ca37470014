"""Write images that the tools make of others: tiles, and smaller copies."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from d2tiny.utils.errors import DatasetError
from d2tiny.utils.files import open_atomic

__all__ = ["write_image"]

_JPEG = frozenset({".jpg", ".jpeg"})


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write an image atomically: JPEG of quality 95, or PNG, as the suffix of ``path`` says.

    Args:
        path: of the file; its folder is created if missing.
        pixels: (H, W, 3) uint8 RGB, or (H, W) grey.

    Raises:
        DatasetError: the pixels cannot be stored in that format, such as a JPEG of more than 65,535 px a side.
        OSError: the disk is full, or the folder cannot be written to.
    """
    jpeg = path.suffix.lower() in _JPEG
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if jpeg else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    ordered = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    done, data = cv2.imencode(path.suffix, ordered, options)
    if not done:
        raise DatasetError(f"{path}: cannot encode these {pixels.shape[1]}x{pixels.shape[0]} px.")
    with open_atomic(path) as file:
        file.write(data.tobytes())
