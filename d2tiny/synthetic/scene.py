"""One synthetic aerial picture with its boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2tiny.synthetic.canvas import Canvas
from d2tiny.synthetic.themes import THEMES

_MIN_IMAGE = 32  # px; below this the themes have no room


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and the objects in it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) float32 XYXY in absolute px, inside the image; tight to the visible object
            without its shadow.
        classes: (N,) int64 indices into `AITOD_CLASSES`.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


def render_scene(seed: int, *, height: int = 256, width: int = 256, density: float = 1.0) -> Scene:
    """Draws one scene.

    Same arguments, same bytes (with the same numpy and OpenCV). Consecutive seeds walk through a
    shuffled deck of themes, so a few dozen of them show every class.

    Args:
        seed: at least 0.
        height: rows, at least 32.
        width: columns, at least 32.
        density: how many objects relative to a typical scene; 0 gives an empty landscape. Where
            places are limited (car parks, stands, berths), values above 1 only fill them up.

    Raises:
        ValueError: an argument is out of range.
    """
    if seed < 0:
        raise ValueError(f"render_scene: seed={seed}, allowed are integers >= 0.")
    if min(height, width) < _MIN_IMAGE:
        raise ValueError(f"render_scene: height={height}, width={width}, both must be at least {_MIN_IMAGE} px.")
    if not 0 <= density <= 10:
        raise ValueError(f"render_scene: density={density}, allowed is 0 to 10.")
    rng = np.random.default_rng(seed)
    lap, position = divmod(seed, len(THEMES))
    order = np.random.default_rng((lap, 17)).permutation(len(THEMES))
    canvas = Canvas(rng, height, width, density)
    THEMES[order[position]](canvas)
    return Scene(
        image=canvas.render(),
        boxes=np.array(canvas.boxes, np.float32).reshape(-1, 4),
        classes=np.array(canvas.classes, np.int64),
    )
