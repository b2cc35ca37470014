"""Pictures for people and pages: enlarged, reduced, encoded by OpenCV, or by Pillow where it is not installed.

The two differ by a few grey values. What a detector sees never comes from here.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

try:
    import cv2
except ImportError:  # it is large, and a server that only predicts does without
    cv2 = None  # type: ignore[assignment]

__all__ = ["draw_outline", "encode_jpeg", "enlarge", "pad_edges", "reduce_area"]

_SIDES = 1 << 16  # of a JPEG, at most


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """Return a copy of an image (H, W, 3) uint8 that is larger by a whole factor, with smooth transitions."""
    height, width = image.shape[:2]
    if factor == 1:
        return image.copy()
    if cv2 is not None:
        return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC))
    return np.array(Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BICUBIC))


def reduce_area(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return an image (H, W, 3) uint8 reduced to a size in px by averages over areas."""
    if cv2 is not None:
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    small = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small)


def pad_edges(image: np.ndarray, below: int, right: int) -> np.ndarray:
    """Return an image (H, W, 3) whose last row and column are repeated."""
    return np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge") if below or right else image


def encode_jpeg(image: np.ndarray, quality: int, *, sharp_colours: bool = False) -> bytes:
    """Return an image (H, W, 3) uint8 RGB as JPEG.

    Args:
        image: the image.
        quality: from 1 to 100.
        sharp_colours: keep the resolution of colours, for thin coloured lines.

    Raises:
        OSError: it cannot be encoded, for example with a side of 65,536 px or more.
    """
    if max(image.shape[:2]) >= _SIDES:
        raise OSError("it cannot be encoded as JPEG")
    if cv2 is None:
        buffer = io.BytesIO()
        options: dict[str, Any] = {"quality": quality, "subsampling": 0 if sharp_colours else 2}
        Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", **options)
        return buffer.getvalue()
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if sharp_colours:
        parameters += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)
    if not done:
        raise OSError("it cannot be encoded as JPEG")
    data: bytes = content.tobytes()
    return data


def draw_outline(image: np.ndarray, box: tuple[int, int, int, int], color: tuple[int, int, int]) -> None:
    """Draw the outline of a box (x0, y0, x1, y1), the last px included, into an image (H, W, 3), one px wide."""
    height, width = image.shape[:2]
    x0, x1 = sorted((box[0], box[2]))
    y0, y1 = sorted((box[1], box[3]))
    columns, rows = slice(max(0, x0), max(0, x1 + 1)), slice(max(0, y0), max(0, y1 + 1))
    for y in (y0, y1):
        if 0 <= y < height:
            image[y, columns] = color
    for x in (x0, x1):
        if 0 <= x < width:
            image[rows, x] = color
