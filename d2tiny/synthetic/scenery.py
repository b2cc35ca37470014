"""Roads, water, buildings and plants, which surround the objects and are not annotated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from d2tiny.synthetic.canvas import Canvas, bezier_curve, direction, ellipse, polyline_band, rectangle, transform
from d2tiny.synthetic.objects import draw_vehicle, shade
from d2tiny.synthetic.texture import (
    Colour,
    blend,
    forest_texture,
    fractal_noise,
    ground_texture,
    smoothstep,
)

ASPHALT: tuple[Colour, ...] = ((0.43, 0.43, 0.44), (0.38, 0.38, 0.39), (0.50, 0.49, 0.48))
CONCRETE: tuple[Colour, ...] = ((0.66, 0.65, 0.62), (0.60, 0.60, 0.59), (0.70, 0.68, 0.63))
DIRT: tuple[Colour, ...] = ((0.64, 0.56, 0.45), (0.58, 0.50, 0.40), (0.70, 0.63, 0.53))
ROOFS: tuple[Colour, ...] = (
    (0.58, 0.33, 0.25), (0.52, 0.36, 0.30), (0.46, 0.44, 0.43), (0.36, 0.36, 0.38),
    (0.66, 0.58, 0.50), (0.62, 0.42, 0.32),
)  # fmt: skip
FLAT_ROOFS: tuple[Colour, ...] = (
    (0.74, 0.73, 0.70), (0.62, 0.62, 0.62), (0.82, 0.82, 0.80), (0.50, 0.54, 0.57),
    (0.60, 0.54, 0.48),
)  # fmt: skip
WHITE: Colour = (0.88, 0.88, 0.85)
YELLOW: Colour = (0.83, 0.68, 0.24)


@dataclass(frozen=True, eq=False)
class Road:
    """A road, or another band along a path.

    Attributes:
        path: (K, 2) centre line in px.
        width: width in px.
        lanes: number of lanes in both directions together.
    """

    path: np.ndarray
    width: float
    lanes: int

    @cached_property
    def distance(self) -> np.ndarray:
        """Return the distance (K,) in px along the path to each of its points."""
        steps = np.linalg.norm(np.diff(self.path, axis=0), axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])

    def at(self, travelled: float) -> tuple[np.ndarray, float]:
        """Return the point (2,) and the heading in radians after `travelled` px along the path."""
        distance = self.distance
        k = int(np.clip(np.searchsorted(distance, travelled) - 1, 0, len(distance) - 2))
        step = self.path[k + 1] - self.path[k]
        point = self.path[k] + step * (travelled - distance[k]) / (distance[k + 1] - distance[k])
        return point, float(np.arctan2(step[1], step[0]))


def crossing_path(canvas: Canvas, angle: float, through: np.ndarray, bend: float = 0.0) -> np.ndarray:
    """Return a curve (K, 2) that crosses the image at `angle`, near the point `through`, with a relative `bend`."""
    reach = float(np.hypot(canvas.height, canvas.width)) + 20
    along, across = direction(angle), direction(angle + np.pi / 2)
    start, end = through - along * reach, through + along * reach
    return bezier_curve(start, through + across * bend * reach, end, points=48)


def draw_road(
    canvas: Canvas,
    path: np.ndarray,
    lane: float,
    lanes: int = 2,
    *,
    colour: Colour | None = None,
    markings: bool = True,
    verge: bool = True,
) -> Road:
    """Draw a road and reserve its surface.

    Args:
        canvas: the canvas.
        path: (K, 2) centre line in px.
        lane: width of a lane in px.
        lanes: number of lanes in both directions together.
        colour: colour of the surface; None picks asphalt.
        markings: draw lane markings.
        verge: draw dusty verges.

    Returns:
        The road.
    """
    width = lane * lanes + 0.8
    colour = colour or canvas.pick_colour(ASPHALT)
    if verge:
        edge = canvas.polygon_mask(polyline_band(path, width + 3.0), soften=1.2)
        dust = np.array(canvas.pick_colour(DIRT), np.float32) * 0.55 + canvas.ground.mean((0, 1)) * 0.45
        canvas.ground = blend(canvas.ground, dust.astype(np.float32), edge * 0.7)
    canvas.fill_polygon(polyline_band(path, width), colour, flat=True)
    result = Road(path, width, lanes)
    if markings:
        _markings(canvas, result, lane, colour)
    canvas.reserve_surface(polyline_band(path, width + 2))
    return result


def _markings(canvas: Canvas, band: Road, lane: float, colour: Colour) -> None:
    thin, bright = max(0.045 * lane, 0.35), shade(colour, 1.75)
    for side in (-1, 1):
        edge = side * (band.width / 2 - 0.7)
        canvas.fill_polygon(polyline_band(band.path, thin, edge), bright, flat=True)
    total = band.distance[-1]
    for k in range(1, band.lanes):
        offset = (k - band.lanes / 2) * lane
        if 2 * k == band.lanes and band.lanes >= 4:
            middle = canvas.pick_colour(CONCRETE)
            canvas.fill_polygon(polyline_band(band.path, 0.25 * lane, offset), middle, flat=True)
            continue
        for travelled in np.arange(0, total, 2.2 * lane):
            point, heading = band.at(travelled)
            if canvas.is_inside(point, band.width):
                dash = transform(rectangle(0.9 * lane, thin, 0, offset), point, heading)
                canvas.fill_polygon(dash, bright, flat=True)


def add_traffic(canvas: Canvas, band: Road, length: float, gap: float) -> None:
    """Draw vehicles of about `length` px in all lanes, driving on the right, on average `gap` car lengths apart."""
    if canvas.density <= 0:
        return
    lane, total = band.width / band.lanes, float(band.distance[-1])
    mean = gap * length / canvas.density
    for k in range(band.lanes):
        offset = (k + 0.5 - band.lanes / 2) * lane
        # y points down, so a positive offset is to the right of the path's direction.
        turn = 0.0 if offset > 0 else np.pi
        travelled = canvas.uniform(0, mean)
        while travelled < total:
            point, heading = band.at(travelled)
            point = point + direction(heading + np.pi / 2) * (offset + canvas.uniform(-0.07, 0.07) * lane)
            if canvas.is_inside(point, 0.0):
                draw_vehicle(canvas, point, heading + turn + canvas.rng.normal(0, 0.03), length)
            travelled += 2.1 * length + float(canvas.rng.exponential(mean))


def draw_tree(canvas: Canvas, centre: np.ndarray, diameter: float, green: Colour) -> None:
    """Draw a tree: a crown of overlapping leaves, brighter towards the sun, and its shadow."""
    rng = canvas.rng
    turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    lobes = 0.5 * diameter * rng.uniform(0.78, 1.05, 14)[:, None]
    crown = lobes * np.stack([np.cos(turn), np.sin(turn)], 1) + centre
    canvas.cast_shadow(crown, diameter * 0.4, convex=False)
    canvas.cast_shadow(crown, diameter * 0.2, convex=False)
    canvas.mark_occupied(ellipse(diameter, diameter) + centre)
    canvas.fill_polygon(crown, shade(green, 0.72))
    count = int(np.clip(diameter * 1.2, 7, 18))
    angles = rng.uniform(0, 2 * np.pi, count)
    radii = diameter * 0.40 * np.sqrt(rng.uniform(0, 1, count))
    leaves = np.stack([np.cos(angles) * radii, np.sin(angles) * radii], 1)
    # From the shaded to the sunny side, so that lit leaves are on top.
    sizes, tones = diameter * rng.uniform(0.22, 0.36, count), rng.uniform(-0.13, 0.13, count)
    for k in np.argsort(-(leaves @ canvas.sun)):
        lit = 1.08 - 0.75 * float(leaves[k] @ canvas.sun) / diameter + float(tones[k])
        leaf = ellipse(sizes[k], sizes[k])[::2] + centre + leaves[k]
        canvas.fill_polygon(leaf, shade(green, lit))


def scatter_trees(canvas: Canvas, low: float, high: float, size: tuple[float, float]) -> None:
    """Draw single trees of a diameter in the range `size` px where nothing else stands."""
    green = canvas.pick_colour(((0.28, 0.37, 0.19), (0.24, 0.33, 0.18), (0.34, 0.39, 0.21)))
    for _ in range(canvas.random_count(low, high, scenery=True)):
        centre, diameter = canvas.random_point(), canvas.uniform(*size)
        if canvas.is_free(ellipse(diameter, diameter) + centre):
            draw_tree(canvas, centre, diameter, shade(green, canvas.uniform(0.85, 1.15)))


def draw_forest(canvas: Canvas, share: float) -> None:
    """Cover about `share` (in [0, 1]) of the ground with forest where it is free; later objects avoid it."""
    where = fractal_noise(canvas.rng, canvas.height, canvas.width, 110.0, fine=6.0, gain=0.5)
    level = float(np.quantile(where, 1 - share))
    open_ground = cv2.GaussianBlur((canvas.occupied == 0).astype(np.float32), (0, 0), 2.0)
    texture, crowns = forest_texture(canvas.rng, canvas.height, canvas.width, canvas.sun)
    mask = smoothstep(where + 0.12 * crowns, level - 0.06, level + 0.06)
    mask = mask * smoothstep(open_ground, 0.8, 0.98)
    shift = np.array([[1, 0, canvas.sun[0] * 3], [0, 1, canvas.sun[1] * 3]])
    edge = cv2.warpAffine(mask, shift, (canvas.width, canvas.height), borderMode=cv2.BORDER_REPLICATE)
    canvas.ground *= 1 - 0.4 * edge[..., None]
    canvas.ground = blend(canvas.ground, texture, mask)
    canvas.occupied[mask > 0.3] |= 1


def draw_house(canvas: Canvas, centre: np.ndarray, angle: float, length: float, width: float) -> None:
    """Draw a house with a gable roof, brighter on the sunny side, and perhaps a chimney."""
    outline = transform(rectangle(length, width), centre, angle)
    canvas.mark_occupied(transform(rectangle(length + 2, width + 2), centre, angle))
    canvas.cast_shadow(outline, width * 0.42)
    roof = canvas.pick_colour(ROOFS)
    canvas.fill_polygon(outline, shade(roof, 0.7))
    facing = float(direction(angle + np.pi / 2) @ canvas.sun)
    inset = np.array([length - 0.8, width - 0.8])
    for side in (-1, 1):
        half = rectangle(1.0, 0.5, 0.0, side * 0.25) * inset
        canvas.fill_polygon(transform(half, centre, angle), shade(roof, 1.0 - 0.24 * side * facing))
    if canvas.chance(0.6):
        spot = transform(np.array([[canvas.uniform(-0.3, 0.3) * length, 0.12 * width]]), centre, angle)[0]
        canvas.fill_polygon(transform(rectangle(1.6, 1.6), spot, angle), (0.30, 0.25, 0.23))


def draw_streets(
    canvas: Canvas,
    middle: np.ndarray,
    angle: float,
    offsets: np.ndarray,
    lane: float,
    colour: Colour,
    *,
    markings: bool = False,
) -> list[Road]:
    """Draw parallel straight roads at sideways `offsets` px from `middle`; return those that cross the image."""
    reach = float(np.hypot(canvas.height, canvas.width)) / 2 + 20
    view = np.array([canvas.width / 2, canvas.height / 2]) - middle
    along, across = float(view @ direction(angle)), float(view @ direction(angle + np.pi / 2))
    result = []
    for offset in offsets[np.abs(offsets - across) < reach]:
        line = np.stack([np.linspace(along - reach, along + reach, 4), np.full(4, offset)], 1)
        path = transform(line, middle, angle)
        result.append(draw_road(canvas, path, lane, colour=colour, markings=markings, verge=False))
    return result


def draw_hall(canvas: Canvas, centre: np.ndarray, angle: float, length: float, width: float) -> None:
    """Draw a hall: a large flat roof with parapet, seams and ventilation boxes."""
    outline = transform(rectangle(length, width), centre, angle)
    canvas.mark_occupied(transform(rectangle(length + 3, width + 3), centre, angle))
    canvas.cast_shadow(outline, canvas.uniform(6, 11))
    roof = canvas.pick_colour(FLAT_ROOFS)
    canvas.fill_polygon(outline, shade(roof, 1.15))
    canvas.fill_polygon(transform(rectangle(length - 2, width - 2), centre, angle), roof)
    for x in np.arange(-length / 2 + 7, length / 2 - 3, 7.0).tolist():
        seam = transform(rectangle(0.4, width - 2, x), centre, angle)
        canvas.fill_polygon(seam, shade(roof, 0.93))
    for _ in range(int(length * width / 450)):
        x, y = canvas.uniform(-0.42, 0.42) * length, canvas.uniform(-0.38, 0.38) * width
        side = canvas.uniform(1.6, 3.2)
        unit_box = transform(rectangle(side, side, x, y), centre, angle)
        canvas.fill_polygon(unit_box + canvas.sun * side * 0.5, shade(roof, 0.55))
        canvas.fill_polygon(unit_box, shade(roof, 1.1))


def draw_containers(canvas: Canvas, centre: np.ndarray, angle: float, rows: int, columns: int) -> None:
    """Draw a block of freight containers where no object stands."""
    palette: tuple[Colour, ...] = (
        (0.55, 0.22, 0.17), (0.20, 0.33, 0.48), (0.30, 0.44, 0.38), (0.72, 0.48, 0.22),
        (0.60, 0.60, 0.58),
    )  # fmt: skip
    length, width = 9.0, 2.6
    outline = transform(rectangle(columns * length, rows * width), centre, angle)
    if not canvas.is_free(outline, surfaces=False):
        return
    canvas.mark_occupied(outline)
    canvas.cast_shadow(outline, 3.5)
    for i in range(rows):
        colour = canvas.pick_colour(palette)
        for j in range(columns):
            if canvas.chance(0.3):
                colour = canvas.pick_colour(palette)
            x, y = (j + 0.5 - columns / 2) * length, (i + 0.5 - rows / 2) * width
            box = rectangle(length - 0.5, width - 0.4, x, y)
            canvas.fill_polygon(transform(box, centre, angle), colour)


def draw_water(canvas: Canvas, polygon: np.ndarray, kind: str, shore: float = 1.5) -> np.ndarray:
    """Fill a polygon with water, with a soft, irregular shore of sand, and reserve its surface.

    Args:
        canvas: the canvas.
        polygon: (K, 2) corners in px.
        kind: ``sea`` or ``river``.
        shore: softness of the shore in px.

    Returns:
        (H, W) float32 mask of the water.
    """
    cover = canvas.polygon_mask(polygon, soften=shore)
    ragged = 0.12 * fractal_noise(canvas.rng, canvas.height, canvas.width, 16.0, fine=2.0)
    ragged *= np.minimum(8 * cover * (1 - cover), 1)  # only near the shore
    sand = np.array(canvas.pick_colour(DIRT), np.float32)
    canvas.ground = blend(canvas.ground, sand, 0.7 * smoothstep(cover + ragged, 0.0, 0.4))
    water = smoothstep(cover + ragged, 0.4, 0.65)
    texture = ground_texture(canvas.rng, kind, canvas.height, canvas.width, canvas.sun)
    canvas.ground = blend(canvas.ground, texture, water)
    canvas.occupied[water > 0.3] |= 1
    return water


def draw_paving(canvas: Canvas, polygon: np.ndarray, colour: Colour, angle: float, pitch: float) -> None:
    """Draw a paved area with joints every `pitch` px at `angle` and across, and reserve its surface."""
    canvas.fill_polygon(polygon, colour, flat=True)
    if pitch > 0:
        tile = canvas.polygon_mask(polygon) > 0.99
        low, high = polygon.min(0), polygon.max(0)
        middle, reach = (low + high) / 2, float(np.hypot(*(high - low))) / 2
        for turn in (angle, angle + np.pi / 2):
            along, across = direction(turn), direction(turn + np.pi / 2)
            for k in np.arange(-reach, reach, pitch):
                _joint(canvas, middle + across * k, along, reach, tile, shade(colour, 0.92))
    canvas.reserve_surface(polygon)


def _joint(
    canvas: Canvas,
    middle: np.ndarray,
    along: np.ndarray,
    reach: float,
    tile: np.ndarray,
    colour: Colour,
) -> None:
    """Draw the part of a straight joint that lies on the paved area, given by the mask `tile`."""
    steps = np.arange(-reach, reach, 1.0)
    points = middle + steps[:, None] * along
    x, y = np.floor(points).astype(int).T
    known = (x >= 0) & (y >= 0) & (x < canvas.width) & (y < canvas.height)
    on = np.zeros(len(points), bool)
    on[known] = tile[y[known], x[known]]
    if on.any():
        first, last = np.flatnonzero(on)[[0, -1]]
        canvas.draw_line(points[first], points[last], 0.3, colour, flat=True)
