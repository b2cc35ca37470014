"""Themes with people, and one without objects."""

from __future__ import annotations

import numpy as np

from d2tiny.synthetic import objects, scenery
from d2tiny.synthetic.canvas import Canvas, direction, ellipse, rectangle, transform
from d2tiny.synthetic.texture import blend, fractal_noise, ground_texture, smoothstep
from d2tiny.synthetic.themes.terrain import fill_fields, fill_ground, image_centre, image_radius, mix_ground


def beach(canvas: Canvas) -> None:
    """Draw a beach with bathers and parasols."""
    fill_ground(canvas, "sand")
    turn, reach = canvas.uniform(0, 2 * np.pi), image_radius(canvas) * 1.5
    edge = image_centre(canvas) + direction(turn + np.pi / 2) * canvas.uniform(0.1, 0.35) * canvas.height
    sea = transform(rectangle(2 * reach, reach, 0, reach / 2), edge, turn)
    cover = canvas.polygon_mask(sea, soften=9.0)
    cover += 0.10 * fractal_noise(canvas.rng, canvas.height, canvas.width, 40.0, fine=3.0)
    water = ground_texture(canvas.rng, "sea", canvas.height, canvas.width, canvas.sun) * 1.15 + 0.06
    canvas.ground *= 1 - 0.22 * smoothstep(cover, 0.1, 0.35)[..., None]
    canvas.ground = blend(canvas.ground, water, smoothstep(cover, 0.4, 0.75))
    surf = smoothstep(cover, 0.36, 0.42) * (1 - smoothstep(cover, 0.44, 0.58))
    canvas.foam = np.maximum(canvas.foam, (surf * 190).astype(np.uint8))
    canvas.occupied[cover > 0.4] |= 1
    for _ in range(canvas.random_count(10, 30, scenery=True)):
        spot, size = canvas.random_point(), canvas.uniform(5, 8)
        if canvas.is_free(ellipse(size, size) + spot):
            _parasol(canvas, spot, size)
    _crowd(canvas, canvas.random_count(20, 65), canvas.uniform(4.0, 6.0))


def _parasol(canvas: Canvas, spot: np.ndarray, size: float) -> None:
    """Draw a parasol in two colours with its shadow."""
    colour = canvas.pick_colour(((0.85, 0.25, 0.2), (0.2, 0.4, 0.7), (0.93, 0.8, 0.3), (0.3, 0.6, 0.5)))
    outline = ellipse(size, size)
    canvas.cast_shadow(outline + spot, size * 0.6, convex=False)
    canvas.mark_occupied(outline + spot)
    canvas.fill_polygon(outline + spot, colour)
    for k in range(0, 24, 6):
        wedge = np.concatenate([[spot], outline[k : k + 4] + spot])
        canvas.fill_polygon(wedge, (0.94, 0.94, 0.92))


def plaza(canvas: Canvas) -> None:
    """Draw people on a paved square with trees and kiosks."""
    fill_ground(canvas, "grass")
    turn = canvas.uniform(0, np.pi)
    size = image_radius(canvas) * canvas.uniform(1.1, 1.8)
    paving = transform(rectangle(size, size * 0.9), image_centre(canvas), turn)
    colour = canvas.pick_colour(((0.66, 0.64, 0.60), (0.60, 0.56, 0.51), (0.70, 0.67, 0.62), (0.55, 0.54, 0.54)))
    scenery.draw_paving(canvas, paving, colour, turn, canvas.uniform(6, 14))
    canvas.occupied[:] = 0
    for _ in range(canvas.random_count(1, 4, scenery=True)):
        spot = canvas.random_point()
        scenery.draw_hall(canvas, spot, turn, canvas.uniform(18, 50), canvas.uniform(14, 30))
    scenery.scatter_trees(canvas, 5, 22, (9.0, 18.0))
    _crowd(canvas, canvas.random_count(20, 80), canvas.uniform(4.2, 6.2))


def _crowd(canvas: Canvas, people: int, size: float) -> None:
    """Draw a number of people, in groups and alone."""
    while people > 0:
        middle = canvas.random_point()
        group = int(min(people, canvas.rng.geometric(0.12)))
        spread = size * np.sqrt(group) * canvas.uniform(0.8, 1.6)
        heading = canvas.uniform(0, 2 * np.pi)
        for _ in range(group):
            spot = middle + canvas.rng.normal(0, spread, 2)
            turn = heading + canvas.rng.normal(0, 0.6)
            scale = size * canvas.uniform(0.85, 1.15)
            if canvas.is_free(ellipse(scale * 1.35, scale * 1.35) + spot):
                objects.draw_person(canvas, spot, turn, scale)
        people -= group


def wilderness(canvas: Canvas) -> None:
    """Draw countryside without objects, apart from an occasional car on a track."""
    if canvas.chance(0.5):
        fill_fields(canvas)
    else:
        fill_ground(canvas, canvas.rng.choice(["grass", "soil", "sand"]))
        mix_ground(canvas, "soil", 0.3)
    if canvas.chance(0.6):
        path = scenery.crossing_path(canvas, canvas.uniform(0, np.pi), canvas.random_point(), canvas.uniform(-0.3, 0.3))
        track = scenery.draw_road(canvas, path, 4.5, 1, colour=canvas.pick_colour(scenery.DIRT), markings=False)
        if canvas.chance(0.4):
            scenery.add_traffic(canvas, track, 10.0, 20.0)
    scenery.draw_forest(canvas, canvas.uniform(0.15, 0.5))
    scenery.scatter_trees(canvas, 5, 40, (5.0, 13.0))
