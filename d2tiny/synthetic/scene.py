"""Rendering of one synthetic aerial scene with its boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from d2tiny.synthetic.canvas import Canvas
from d2tiny.synthetic.themes import THEMES
from d2tiny.utils.errors import ConfigError

_MIN_IMAGE = 32  # px; smaller images have no room for the themes


@dataclass(frozen=True, eq=False)
class Scene:
    """An image and its annotated objects.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) float32 XYXY in absolute px, inside the image and tight to the visible object without its shadow.
        classes: (N,) int64 indices into `AITOD_CLASSES`.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


def check_scene(seed: int, height: int, width: int, density: float) -> None:
    """Check the arguments of :func:`render_scene`.

    Raises:
        ConfigError: one is outside its range.
    """
    if seed < 0:
        raise ConfigError(f"seed={seed} of drawn scenes: allowed are integers >= 0.")
    if min(height, width) < _MIN_IMAGE:
        raise ConfigError(f"Drawn scenes of height={height}, width={width}: both must be at least {_MIN_IMAGE} px.")
    if not 0 <= density <= 10:
        raise ConfigError(f"density={density} of drawn scenes: allowed is 0 to 10.")


def render_scene(seed: int, *, height: int = 256, width: int = 256, density: float = 1.0) -> Scene:
    """Render a scene.

    The result depends only on the arguments (and the versions of numpy and OpenCV). Consecutive seeds cycle through all
    themes in random order, so that every class occurs within a few dozen seeds.

    Args:
        seed: seed of the scene, at least 0.
        height: height in px, at least 32.
        width: width in px, at least 32.
        density: number of objects relative to a typical scene, in [0, 10]; 0 gives a landscape without objects. Where
            objects have fixed positions (car parks, stands, berths), values above 1 only fill these.

    Returns:
        The scene.

    Raises:
        ConfigError: an argument is outside its range.
    """
    check_scene(seed, height, width, density)
    rng = np.random.default_rng(seed)
    cycle, position = divmod(seed, len(THEMES))
    order = np.random.default_rng((cycle, 17)).permutation(len(THEMES))
    canvas = Canvas(rng, height, width, density)
    THEMES[order[position]](canvas)
    return Scene(
        image=canvas.render(),
        boxes=np.array(canvas.boxes, np.float32).reshape(-1, 4),
        classes=np.array(canvas.classes, np.int64),
    )
