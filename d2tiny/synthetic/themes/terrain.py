"""Ground and geometry that the themes share."""

from __future__ import annotations

import numpy as np

from d2tiny.synthetic.canvas import Canvas
from d2tiny.synthetic.texture import blend, field_texture, fractal_noise, ground_texture, smoothstep


def fill_ground(canvas: Canvas, kind: str) -> None:
    """Cover the image with a natural surface, a key of `GROUNDS`."""
    canvas.ground = ground_texture(canvas.rng, kind, canvas.height, canvas.width, canvas.sun)


def fill_fields(canvas: Canvas) -> None:
    """Cover the image with fields."""
    canvas.ground = field_texture(canvas.rng, canvas.height, canvas.width, canvas.sun)


def mix_ground(canvas: Canvas, kind: str, share: float) -> None:
    """Blend soft patches of another surface, a key of `GROUNDS`, over about `share` (in [0, 1]) of the ground."""
    where = fractal_noise(canvas.rng, canvas.height, canvas.width, 80.0, fine=2.0, gain=0.55)
    level = float(np.quantile(where, 1 - share))
    other = ground_texture(canvas.rng, kind, canvas.height, canvas.width, canvas.sun)
    canvas.ground = blend(canvas.ground, other, smoothstep(where, level - 0.5, level + 0.5))


def image_centre(canvas: Canvas) -> np.ndarray:
    """Return the centre (2,) of the image."""
    return np.array([canvas.width / 2, canvas.height / 2])


def image_radius(canvas: Canvas) -> float:
    """Return half the diagonal of the image plus 20 px."""
    return float(np.hypot(canvas.height, canvas.width)) / 2 + 20
