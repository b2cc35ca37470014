"""The drawing surface of a synthetic scene: layers, sun, boxes, and a camera model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np

from d2tiny.data.datasets.categories import AITOD_CLASSES
from d2tiny.synthetic.texture import Colour, fractal_noise, smoothstep

SUPERSAMPLE = 4
"""Number of samples per px and axis at which objects are drawn."""

_SHIFT = 6  # fractional bits of the integer coordinates that OpenCV's drawing functions take
_SURFACE, _OBJECT = 1, 2  # bits of Canvas.occupied

_MIN_INSIDE = 0.6  # smallest fraction of an object's box that must lie inside the image
_MIN_SIDE = 2.0  # px, of the clipped box


class Canvas:
    """Layers of a scene and the boxes of its objects, rendered to an image at the end.

    The layers are, from bottom to top: `ground` (H, W, 3) float32; `flat`, painted surfaces such as roads; `foam`,
    white water; `shadow`; `raised`, everything that stands on the ground. `flat`, `shadow` and `raised` have
    `SUPERSAMPLE` times the resolution of the image.

    Coordinates, also of boxes, are (x, y) in px with the origin at the outer corner of the first pixel: pixel i covers
    [i, i + 1].
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int, density: float) -> None:
        """Create an empty canvas with a random position of the sun.

        Args:
            rng: source of all randomness of the scene.
            height: height of the image in px.
            width: width of the image in px.
            density: factor of the numbers of annotated objects.
        """
        self.rng = rng
        self.height, self.width, self.density = height, width, density
        azimuth = rng.uniform(0, 2 * np.pi)
        self.sun = np.array([np.cos(azimuth), np.sin(azimuth)])
        """(2,) unit vector of the direction in which shadows fall."""
        self.shadow_slope = float(rng.uniform(0.5, 1.4))
        """Length of a shadow per unit of object height."""
        self.ground = np.zeros((height, width, 3), np.float32)
        fine = (height * SUPERSAMPLE, width * SUPERSAMPLE)
        self.flat = np.zeros((*fine, 4), np.uint8)
        self.raised = np.zeros((*fine, 4), np.uint8)
        self.shadow = np.zeros(fine, np.uint8)
        self.foam = np.zeros((height, width), np.uint8)
        self.occupied = np.zeros((height, width), np.uint8)
        self.boxes: list[tuple[float, float, float, float]] = []
        self.classes: list[int] = []

    # ---- randomness ------------------------------------------------------------------------------

    def uniform(self, low: float, high: float) -> float:
        """Return a random number from [low, high)."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return bool(self.rng.random() < probability)

    def pick_colour(self, options: Sequence[Colour], jitter: float = 0.04) -> Colour:
        """Return one of the colours with a random deviation of standard deviation ``jitter``."""
        base = np.array(options[int(self.rng.integers(len(options)))])
        r, g, b = np.clip(base + self.rng.normal(0, jitter) + self.rng.normal(0, 0.006, 3), 0, 1)
        return float(r), float(g), float(b)

    def random_count(self, low: float, high: float, *, scenery: bool = False) -> int:
        """Return a random number of things to draw, in proportion to the area of the image.

        Args:
            low: smallest mean for 256 × 256 px at density 1.
            high: largest mean for 256 × 256 px at density 1.
            scenery: the things are not annotated, so their number does not depend on the density.
        """
        area = self.height * self.width / 65536
        mean = self.uniform(low, high) * area * (1.0 if scenery else self.density)
        return int(np.floor(mean + self.rng.random()))

    def random_point(self, margin: float = 0.0) -> np.ndarray:
        """Return a random point (2,) of the image, at least `margin` px from its borders if possible."""
        size = np.array([self.width, self.height], float)
        inset = np.minimum(margin, size / 2)
        return self.rng.uniform(inset, size - inset)

    # ---- drawing ---------------------------------------------------------------------------------

    def fill_polygon(self, points: np.ndarray, colour: Colour, *, alpha: float = 1.0, flat: bool = False) -> None:
        """Fill a polygon on the raised (or flat) layer, replacing earlier content of the layer.

        Args:
            points: (K, 2) corners in px.
            colour: RGB in [0, 1].
            alpha: opacity in [0, 1]; the layers below are visible through it, not earlier polygons of this layer.
            flat: draw on the layer below the shadows.
        """
        target = self.flat if flat else self.raised
        cv2.fillPoly(target, [_fixed_point(points)], _premultiplied(colour, alpha), shift=_SHIFT)

    def fill_polygons(self, polygons: Sequence[np.ndarray], colour: Colour) -> None:
        """Fill several polygons with one colour on the raised layer."""
        for points in polygons:
            self.fill_polygon(points, colour)

    def draw_line(
        self,
        start: np.ndarray,
        end: np.ndarray,
        width: float,
        colour: Colour,
        *,
        alpha: float = 1.0,
        flat: bool = False,
    ) -> None:
        """Draw a straight line from `start` to `end`, `width` px wide; see :meth:`fill_polygon`."""
        self.fill_polygon(polyline_band(np.stack([start, end]), width), colour, alpha=alpha, flat=flat)

    def cast_shadow(self, outline: np.ndarray, height: float, *, convex: bool = True) -> None:
        """Draw the shadow of an object.

        Args:
            outline: (K, 2) footprint of the object in px.
            height: height of the object in px.
            convex: draw the shadow of a solid block with this footprint; otherwise that of a plate at this height.
        """
        moved = outline + self.sun * (height * self.shadow_slope)
        if convex:
            both = np.concatenate([outline, moved]).astype(np.float32)
            moved = cv2.convexHull(both)[:, 0]
        cv2.fillPoly(self.shadow, [_fixed_point(moved)], 255, shift=_SHIFT)

    def add_foam(self, points: np.ndarray, strength: float) -> None:
        """Draw white water inside a polygon (K, 2) with a strength in [0, 1]."""
        fixed = np.round((points - 0.5) * 2**_SHIFT).astype(np.int32)
        cv2.fillPoly(self.foam, [fixed], 255 * strength, lineType=cv2.LINE_AA, shift=_SHIFT)

    def polygon_mask(self, points: np.ndarray, soften: float = 0.0) -> np.ndarray:
        """Return the (H, W) float32 coverage of a polygon, blurred by a Gaussian of `soften` px if that is positive."""
        canvas = np.zeros((self.height, self.width), np.uint8)
        fixed = np.round((points - 0.5) * 2**_SHIFT).astype(np.int32)
        cv2.fillPoly(canvas, [fixed], 255, lineType=cv2.LINE_AA, shift=_SHIFT)
        cover = canvas.astype(np.float32) / 255
        return cv2.GaussianBlur(cover, (0, 0), soften) if soften > 0 else cover

    # ---- occupied areas and annotations ----------------------------------------------------------

    def reserve_surface(self, points: np.ndarray) -> None:
        """Mark a surface (road, water, apron) that scenery and scattered objects must avoid."""
        self._mark(points, _SURFACE)

    def is_free(self, points: np.ndarray, *, surfaces: bool = True) -> bool:
        """Return whether no object (and, with `surfaces`, no reserved surface) overlaps the polygon."""
        return not self._overlaps(points, _OBJECT | (_SURFACE if surfaces else 0))

    def mark_occupied(self, points: np.ndarray) -> None:
        """Mark a polygon as covered by something solid that is not annotated."""
        self._mark(points, _OBJECT)

    def add_object(self, name: str, *parts: np.ndarray, solid: bool = True) -> bool:
        """Record the box of an annotated object if the object can be placed there; call this before drawing it.

        Args:
            name: class name, one of `AITOD_CLASSES`.
            *parts: (K, 2) polygons that together are the visible object.
            solid: whether the object keeps others from being placed there later.

        Returns:
            Whether the object was recorded. It is rejected if less than 60 % of its box lies inside the image, if a
            side of the clipped box is shorter than 2 px, or if it overlaps another object.
        """
        corners = np.concatenate(parts)
        x0, y0 = corners.min(0)
        x1, y1 = corners.max(0)
        left, top = max(x0, 0.0), max(y0, 0.0)
        right, bottom = min(x1, float(self.width)), min(y1, float(self.height))
        inside = max(right - left, 0) * max(bottom - top, 0)
        if inside < _MIN_INSIDE * (x1 - x0) * (y1 - y0):
            return False
        if min(right - left, bottom - top) < _MIN_SIDE:
            return False
        if any(self._overlaps(part, _OBJECT) for part in parts):
            return False
        if solid:
            for part in parts:
                self._mark(part, _OBJECT)
        self.boxes.append((float(left), float(top), float(right), float(bottom)))
        self.classes.append(AITOD_CLASSES.index(name))
        return True

    def is_inside(self, point: np.ndarray, margin: float) -> bool:
        """Return whether a point lies in the image or less than `margin` px outside (inside, if negative)."""
        x, y = float(point[0]), float(point[1])
        across = -margin < x < self.width + margin
        return across and -margin < y < self.height + margin

    def ground_colour(self, point: np.ndarray) -> np.ndarray:
        """Return the colour (3,) of the ground or painted surface around a point, without shadow."""
        x = int(np.clip(point[0], 0, self.width - 1))
        y = int(np.clip(point[1], 0, self.height - 1))
        below = self.ground[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean((0, 1))
        rows = slice(max(y - 2, 0) * SUPERSAMPLE, (y + 3) * SUPERSAMPLE, 2)
        columns = slice(max(x - 2, 0) * SUPERSAMPLE, (x + 3) * SUPERSAMPLE, 2)
        paint = self.flat[rows, columns].mean((0, 1)) / 255
        return below * (1 - paint[3]) + paint[:3]

    def contrasting_colour(self, colour: Colour, point: np.ndarray, gap: float = 0.15) -> Colour:
        """Return the colour, made lighter or darker if the ground at `point` differs from it by less than `gap`."""
        target, ground = np.array(colour), self.ground_colour(point)
        if np.abs(target - ground).max() >= gap:
            return colour
        lighter = target.mean() >= ground.mean() or ground.mean() < 0.35
        lighter = lighter and ground.mean() + gap < 1
        r, g, b = np.clip(target + (1.3 * gap if lighter else -1.3 * gap), 0.03, 1)
        return float(r), float(g), float(b)

    def _window(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the part of `occupied` around a polygon and the polygon's mask in it; None outside the image."""
        x0, y0 = np.maximum(np.floor(points.min(0)).astype(int), 0)
        x1, y1 = np.ceil(points.max(0)).astype(int)
        view = self.occupied[y0 : max(y1, 0), x0 : max(x1, 0)]
        if view.size == 0:
            return None
        mask = np.zeros(view.shape, np.uint8)
        fixed = np.round((points - 0.5 - (x0, y0)) * 2**_SHIFT).astype(np.int32)
        cv2.fillPoly(mask, [fixed], 255, shift=_SHIFT)
        return view, mask

    def _mark(self, points: np.ndarray, bit: int) -> None:
        window = self._window(points)
        if window is not None:
            view, mask = window
            view |= mask & np.uint8(bit)

    def _overlaps(self, points: np.ndarray, bits: int) -> bool:
        window = self._window(points)
        return window is not None and bool((window[0] & window[1] & np.uint8(bits)).any())

    # ---- camera ----------------------------------------------------------------------------------

    def render(self) -> np.ndarray:
        """Compose the layers and apply the camera model.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        rng, size = self.rng, (self.width, self.height)
        mottle = fractal_noise(rng, self.height, self.width, 40.0, fine=1.0, gain=0.8)
        flat = cv2.resize(self.flat, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        raised = cv2.resize(self.raised, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        shadow = cv2.resize(self.shadow, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255

        image = self.ground * (1 - flat[..., 3:])
        image += flat[..., :3] * (1 + 0.035 * mottle)[..., None]
        if self.foam.any():
            foam = cv2.GaussianBlur(self.foam.astype(np.float32) / 255, (0, 0), 1.0)
            foam *= smoothstep(fractal_noise(rng, self.height, self.width, 3.0), -1.8, 0.8)
            image += (np.float32(0.86) - image) * foam[..., None]
        # Shadows are lit by the blue sky, so they lose less blue.
        depth = self.uniform(0.45, 0.66) * cv2.GaussianBlur(shadow, (0, 0), 0.5)
        image *= 1 - depth[..., None] * np.array([1.0, 0.97, 0.88], np.float32)
        image = image * (1 - raised[..., 3:]) + raised[..., :3] * (1 + 0.02 * mottle)[..., None]
        return self._apply_camera(image)

    def _apply_camera(self, image: np.ndarray) -> np.ndarray:
        """Apply optics, illumination, haze, sensor noise and JPEG compression; return (H, W, 3) uint8."""
        rng = self.rng
        image = cv2.GaussianBlur(image, (0, 0), self.uniform(0.35, 0.62))
        light = fractal_noise(rng, self.height, self.width, 200.0, fine=100.0)
        gain = self.uniform(0.86, 1.14) * (1 + self.uniform(0.0, 0.04) * light)
        warmth = float(rng.normal(0.0, 0.025))
        cast = np.array([1 + warmth, 1.0, 1 - warmth], np.float32)
        image = image * gain[..., None].astype(np.float32) * cast
        haze = self.uniform(0.0, 0.09)
        image = image * np.float32(1 - haze) + np.float32(haze * 0.75)
        image = cv2.pow(np.maximum(image, 0), self.uniform(0.88, 1.12))
        # A tone curve like that of film, so that white roofs keep their structure instead of clipping.
        image = np.where(image > 0.7, 1 - 0.3 * np.exp((0.7 - image) / 0.3), image)
        noise = rng.standard_normal((self.height, self.width, 3), dtype=np.float32)
        level = np.float32(self.uniform(0.004, 0.014))
        image += level * (0.9 * noise[..., 1:2] + 0.4 * noise)
        pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
        quality = int(rng.integers(84, 97))
        _, coded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        assert decoded is not None  # it was encoded two lines above
        return np.ascontiguousarray(decoded[..., ::-1])


def _fixed_point(points: np.ndarray) -> np.ndarray:
    """Return fixed-point coordinates on the supersampled grid, whose sample i lies at (i + 0.5) / SUPERSAMPLE px."""
    return np.round((points * SUPERSAMPLE - 0.5) * 2**_SHIFT).astype(np.int32)


def _premultiplied(colour: Colour, alpha: float) -> tuple[float, float, float, float]:
    """Return an RGBA colour in [0, 255] with premultiplied alpha."""
    r, g, b = (min(max(c, 0.0), 1.0) * 255 * alpha for c in colour)
    return r, g, b, 255 * alpha


# ---- geometry ------------------------------------------------------------------------------------


def transform(local: np.ndarray, centre: np.ndarray, angle: float) -> np.ndarray:
    """Rotate (K, 2) local points by `angle` in radians (x towards y) and translate them by `centre`."""
    c, s = np.cos(angle), np.sin(angle)
    return local @ np.array([[c, s], [-s, c]]) + centre


def direction(angle: float) -> np.ndarray:
    """Return the unit vector (2,) of an angle in radians."""
    return np.array([np.cos(angle), np.sin(angle)])


def rectangle(length: float, width: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Return the corners (4, 2) of an axis-aligned rectangle around (x, y)."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float) / 2
    return corners * (length, width) + (x, y)


@lru_cache
def _superellipse(power: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    return np.sign(circle) * np.abs(circle) ** (2 / power) / 2


def ellipse(length: float, width: float, power: float = 2.0) -> np.ndarray:
    """Return (24, 2) points of a superellipse around the origin; `power` 2 is an ellipse, more is boxier."""
    return _superellipse(power) * (length, width)


def mirror_outline(half: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return the closed outline (2K, 2) that is symmetric about the x axis, given its K points with y ≥ 0."""
    upper = np.array(half, float)
    return np.concatenate([upper, upper[::-1] * (1, -1)])


def polyline_normals(path: np.ndarray) -> np.ndarray:
    """Return the unit normals (K, 2) of a polyline, left-handed in image coordinates."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    return np.stack([-tangent[:, 1], tangent[:, 0]], 1)


def polyline_band(path: np.ndarray, width: float | np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Return the polygon (2K, 2) of a band of `width` px along a polyline (K, 2), shifted sideways by `offset` px."""
    normal = polyline_normals(path)
    half = np.broadcast_to(np.asarray(width, float) / 2, (len(path),))[:, None]
    return np.concatenate([path + normal * (offset + half), (path + normal * (offset - half))[::-1]])


def bezier_curve(start: np.ndarray, middle: np.ndarray, end: np.ndarray, points: int = 32) -> np.ndarray:
    """Return a quadratic Bézier curve (points, 2)."""
    t = np.linspace(0, 1, points)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
