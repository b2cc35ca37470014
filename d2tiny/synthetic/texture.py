"""Ground textures made of multi-octave noise.

All functions return float32 arrays at the resolution of the image; colours are RGB in [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

Colour = tuple[float, float, float]


class GroundStyle(NamedTuple):
    """Appearance of a natural surface.

    Attributes:
        light: possible colours of the brighter parts.
        dark: possible colours of the darker parts.
        coarse: size of the largest patches in px.
        grain: amplitude of the brightness noise at the scale of pixels.
    """

    light: tuple[Colour, ...]
    dark: tuple[Colour, ...]
    coarse: float
    grain: float


GROUNDS: dict[str, GroundStyle] = {
    "grass": GroundStyle(
        ((0.48, 0.53, 0.33), (0.42, 0.49, 0.27), (0.55, 0.54, 0.36)),
        ((0.29, 0.37, 0.20), (0.33, 0.38, 0.22), (0.37, 0.40, 0.25)),
        70.0,
        0.035,
    ),
    "soil": GroundStyle(
        ((0.64, 0.52, 0.40), (0.60, 0.53, 0.44), (0.69, 0.57, 0.43)),
        ((0.48, 0.38, 0.29), (0.46, 0.40, 0.33)),
        60.0,
        0.035,
    ),
    "sand": GroundStyle(
        ((0.85, 0.78, 0.64), (0.81, 0.74, 0.61)),
        ((0.73, 0.65, 0.51), (0.70, 0.62, 0.49)),
        50.0,
        0.022,
    ),
    "concrete": GroundStyle(
        ((0.68, 0.67, 0.64), (0.62, 0.62, 0.61)),
        ((0.56, 0.55, 0.53), (0.52, 0.52, 0.51)),
        90.0,
        0.018,
    ),
    "asphalt": GroundStyle(
        ((0.42, 0.42, 0.43), (0.47, 0.46, 0.46)),
        ((0.34, 0.34, 0.36), (0.38, 0.38, 0.38)),
        80.0,
        0.018,
    ),
    "sea": GroundStyle(
        ((0.16, 0.33, 0.42), (0.20, 0.36, 0.40), (0.13, 0.27, 0.38)),
        ((0.09, 0.22, 0.31), (0.11, 0.25, 0.29)),
        130.0,
        0.008,
    ),
    "river": GroundStyle(
        ((0.33, 0.37, 0.30), (0.24, 0.34, 0.34), (0.40, 0.38, 0.29)),
        ((0.24, 0.30, 0.25), (0.17, 0.26, 0.27), (0.31, 0.31, 0.24)),
        110.0,
        0.008,
    ),
}


def fractal_noise(
    rng: np.random.Generator,
    height: int,
    width: int,
    coarse: float,
    fine: float = 1.0,
    gain: float = 0.6,
) -> np.ndarray:
    """Return fractal noise: smooth noise summed over octaves from `coarse` down to `fine` px.

    Args:
        rng: source of randomness.
        height: rows of the result.
        width: columns of the result.
        coarse: cell size of the first octave in px.
        fine: no octave has cells smaller than this.
        gain: amplitude of an octave relative to the one before.

    Returns:
        (height, width) float32 with mean about 0 and standard deviation about 1.
    """
    octaves = []
    cell, amplitude, power = float(coarse), 1.0, 0.0
    while cell >= fine:
        octaves.append((cell, amplitude))
        # Interpolation between cells removes about half of the variance.
        power += 0.55 * amplitude**2
        cell, amplitude = cell / 2, amplitude * gain
    # Coarse octaves are smooth enough to be computed at a quarter of the resolution.
    low = [(cell / 4, amplitude) for cell, amplitude in octaves if cell >= 12]
    total = _octaves(rng, -(-height // 4), -(-width // 4), low)
    total = cv2.resize(total, (width, height), interpolation=cv2.INTER_CUBIC)
    total += _octaves(rng, height, width, [octave for octave in octaves if octave[0] < 12])
    return total * np.float32(1 / np.sqrt(max(power, 1e-6)))


def _octaves(rng: np.random.Generator, height: int, width: int, octaves: list[tuple[float, float]]) -> np.ndarray:
    """Return the (height, width) sum of noise layers, each given by cell size in px and amplitude."""
    total = np.zeros((height, width), np.float32)
    for cell, amplitude in octaves:
        if cell < 1.25:
            total += np.float32(0.75 * amplitude) * rng.standard_normal(total.shape, np.float32)
            continue
        rows, cols = int(height / cell) + 4, int(width / cell) + 4
        grid = np.float32(amplitude) * rng.standard_normal((rows, cols), np.float32)
        # A random offset prevents the grid lines of the octaves from coinciding.
        dx, dy = rng.uniform(0.5, 1.5, 2)
        matrix = np.array([[1 / cell, 0, dx], [0, 1 / cell, dy]], np.float32)
        smooth = cv2.INTER_CUBIC if cell > 2.5 else cv2.INTER_LINEAR
        total += cv2.warpAffine(
            grid,
            matrix,
            (width, height),
            flags=smooth | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
    return total


def smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the smoothstep function: 0 below `low`, 1 above `high`, a cubic S-curve between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def blend(under: np.ndarray, over: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Blend two (H, W, 3) images: `over` where the (H, W) mask is 1, `under` where it is 0."""
    return under + (over - under) * mask[..., None]


def slope_shading(field: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return the slope of a height field along the light, for shading.

    Args:
        field: (H, W) heights.
        direction: (2,) unit vector (x, y) in which shadows fall.

    Returns:
        (H, W) slope per px, positive on the sunny side.
    """
    gy, gx = np.gradient(field)
    return gx * np.float32(direction[0]) + gy * np.float32(direction[1])


def ground_texture(rng: np.random.Generator, kind: str, height: int, width: int, sun: np.ndarray) -> np.ndarray:
    """Return the texture of a natural surface.

    Args:
        rng: source of randomness.
        kind: key of `GROUNDS`.
        height: rows.
        width: columns.
        sun: (2,) direction in which shadows fall.

    Returns:
        (height, width, 3) float32 colours.

    Raises:
        KeyError: `kind` is not in `GROUNDS`.
    """
    look = GROUNDS[kind]
    light = np.array(look.light[rng.integers(len(look.light))], np.float32)
    dark = np.array(look.dark[rng.integers(len(look.dark))], np.float32)
    water = kind in ("sea", "river")
    patches = fractal_noise(rng, height, width, look.coarse, fine=16.0 if water else 4.0)
    colour = dark + (light - dark) * smoothstep(patches, -1.6, 1.6)[..., None]
    if water:
        return colour + wave_texture(rng, height, width, sun)[..., None]
    fine = fractal_noise(rng, height, width, 4.0, fine=1.0, gain=0.9)
    return colour * (1 + look.grain * 2 * fine)[..., None]


def wave_texture(rng: np.random.Generator, height: int, width: int, sun: np.ndarray) -> np.ndarray:
    """Return the (height, width) brightness of ripples across a random wind direction."""
    stretch, period = rng.uniform(2.0, 4.0), rng.uniform(2.5, 5.0)
    angle = rng.uniform(0, np.pi)
    side = int(np.hypot(height, width) / stretch) + 4
    field = fractal_noise(rng, side, int(side * stretch), period * 2, fine=2.0, gain=0.7)
    c, s = np.cos(angle), np.sin(angle)
    cx, cy = field.shape[1] / 2, field.shape[0] / 2
    matrix = np.array(
        [
            [c, s, cx - c * width / 2 - s * height / 2],
            [-s / stretch, c / stretch, cy + (s * width / 2 - c * height / 2) / stretch],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    ripples = cv2.warpAffine(field, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
    strength = np.float32(rng.uniform(0.008, 0.022))
    return strength * ripples + strength * slope_shading(ripples, sun)


def field_texture(rng: np.random.Generator, height: int, width: int, sun: np.ndarray) -> np.ndarray:
    """Return the texture of fields: crops, meadows and bare soil with plough rows and soft borders.

    Returns:
        (height, width, 3) float32 colours.
    """
    angle, skew = rng.uniform(0, np.pi), rng.uniform(-0.25, 0.25)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    wobble = 1.5 * fractal_noise(rng, height, width, 40.0, fine=6.0)
    u = xs * np.float32(np.cos(angle)) + ys * np.float32(np.sin(angle)) + 0.25 * wobble
    v = ys * np.float32(np.cos(angle + skew)) - xs * np.float32(np.sin(angle + skew))
    v += 0.25 * wobble
    reach = float(np.hypot(height, width))
    cuts_u = np.cumsum(rng.uniform(60, 170, int(2 * reach / 60) + 2)) - reach
    cuts_v = np.cumsum(rng.uniform(50, 150, int(2 * reach / 50) + 2)) - reach
    column, row = np.searchsorted(cuts_u, u + wobble), np.searchsorted(cuts_v, v + wobble)
    label = column * (len(cuts_v) + 1) + row

    count = (len(cuts_u) + 1) * (len(cuts_v) + 1)
    looks = [GROUNDS["grass"], GROUNDS["grass"], GROUNDS["soil"]]
    palette = np.array([c for look in looks for c in (*look.light, *look.dark)], np.float32)
    base = palette[rng.integers(len(palette), size=count)]
    base = 0.62 * base + 0.38 * base.mean(0)
    base *= rng.uniform(0.92, 1.08, (count, 1)).astype(np.float32)
    along = rng.random(count) < 0.5
    depth = (rng.uniform(0, 0.06, count) * (rng.random(count) < 0.7)).astype(np.float32)
    period = rng.uniform(2.4, 4.5, count).astype(np.float32)

    phase = np.where(along[label], u, v) * (2 * np.pi / period[label])
    rows = depth[label] * np.sin(phase)
    tone = 0.035 * fractal_noise(rng, height, width, 48.0, fine=1.0, gain=0.75)
    colour = cv2.GaussianBlur(base[label], (0, 0), 0.8)
    return colour * (1 + rows + tone)[..., None]


def forest_texture(rng: np.random.Generator, height: int, width: int, sun: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the texture of a forest and the heights of its crowns.

    Returns:
        (height, width, 3) float32 colours and (height, width) heights, about standard normal.
    """
    crowns = fractal_noise(rng, height, width, 9.0, fine=2.0, gain=0.75)
    tone = fractal_noise(rng, height, width, 60.0, fine=15.0)
    green = np.array([0.20, 0.27, 0.15], np.float32) * np.float32(rng.uniform(0.85, 1.25))
    light = 1 + 0.32 * slope_shading(crowns, sun) + 0.12 * crowns + 0.08 * tone
    return green * np.clip(light, 0.35, 1.9)[..., None], crowns
