"""One annotated picture of a scene."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from d2tiny.inference.compact import gather
from d2tiny.inference.pyramid import Pixels, reduced_rows, reduction
from d2tiny.inference.scene import Scene, SceneDetections
from d2tiny.utils.files import open_atomic
from d2tiny.utils.pictures import encode_jpeg
from d2tiny.visualization import Boxes2D, draw_boxes

__all__ = ["draw_preview", "write_picture"]

_QUALITY = 95  # of JPEG


def draw_preview(
    scene: Scene, chunks: Iterable[SceneDetections], pixels: Pixels, path: Path, *, side: int = 4096
) -> None:
    """Write a JPEG of a scene with its boxes and a legend.

    Args:
        scene: the scene.
        chunks: its objects.
        pixels: its pixels, read once from top to bottom.
        path: the file; a file that is there is replaced, and none is left half-written.
        side: a scene whose longer side has more px is reduced to this.

    Raises:
        DatasetError: the pixels cannot be read, or the objects are none of this scene's.
        OSError: the file cannot be written.
    """
    factor = reduction(pixels.width, pixels.height, side)
    boxes, scores, classes = gather(scene, chunks)
    boxes *= np.float32(factor)
    # Not enlarged where it had to be reduced.
    scale = 0 if factor == 1 else 1
    items, title = Boxes2D(boxes, classes, scores), Path(scene.path).name
    picture = draw_boxes(_whole(pixels, factor), items, scene.classes, title=title, scale=scale)
    write_picture(picture, path)


def _whole(pixels: Pixels, factor: Fraction) -> np.ndarray:
    """Return the reduced image; parts and their concatenation would need twice the memory."""
    image = np.empty((-(-pixels.height * factor // 1), -(-pixels.width * factor // 1), 3), dtype=np.uint8)
    y = 0
    for rows in reduced_rows(pixels, factor):
        image[y : y + len(rows)] = rows
        y += len(rows)
    return image


def write_picture(picture: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) uint8 RGB as JPEG, whole or not at all.

    Raises:
        OSError: it cannot be encoded, or the file cannot be written.
    """
    # Subsampled colours would wash out lines of one pixel.
    content = encode_jpeg(picture, _QUALITY, sharp_colours=True)
    with open_atomic(path) as file:
        file.write(content)
