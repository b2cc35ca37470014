"""Themes at sea, in harbours and along rivers."""

from __future__ import annotations

import numpy as np

from d2tiny.synthetic import objects, scenery
from d2tiny.synthetic.canvas import Canvas, direction, ellipse, polyline_band, rectangle, transform
from d2tiny.synthetic.texture import blend, fractal_noise, ground_texture, smoothstep
from d2tiny.synthetic.themes.terrain import fill_fields, fill_ground, image_centre, image_radius, mix_ground


def harbour(canvas: Canvas) -> None:
    """Draw a harbour: quays with freighters, or a marina with yachts side by side."""
    fill_ground(canvas, "concrete")
    turn, reach = canvas.uniform(0, 2 * np.pi), image_radius(canvas) * 1.5
    shore = image_centre(canvas) - direction(turn + np.pi / 2) * canvas.uniform(0.05, 0.3) * canvas.height
    # Local frame: x along the shore, y out to sea.
    basin = transform(rectangle(2 * reach, reach, 0, reach / 2), shore, turn)
    scenery.draw_water(canvas, basin, "sea", shore=0.7)
    quay = transform(rectangle(2 * reach, 7, 0, -3.5), shore, turn)
    canvas.fill_polygon(quay, canvas.pick_colour(scenery.CONCRETE), flat=True)
    inland = transform(np.array([[-reach, -20.0], [reach, -20.0]]), shore, turn)
    street = scenery.draw_road(canvas, np.linspace(inland[0], inland[1], 8), 9.0)
    scenery.add_traffic(canvas, street, canvas.uniform(10.5, 13), 4.0)
    if canvas.chance(0.6):
        _marina(canvas, shore, turn)
    else:
        _docks(canvas, shore, turn)
    for _ in range(canvas.random_count(6, 14, scenery=True)):
        spot = transform(np.array([[canvas.uniform(-reach, reach), canvas.uniform(-120, -42)]]), shore, turn)
        if canvas.chance(0.3):
            scenery.draw_hall(canvas, spot[0], turn, canvas.uniform(25, 50), canvas.uniform(15, 24))
        else:
            rows, columns = canvas.rng.integers(2, 7), canvas.rng.integers(1, 5)
            scenery.draw_containers(canvas, spot[0], turn, int(rows), int(columns))
    for _ in range(canvas.random_count(1, 5)):
        spot = transform(np.array([[canvas.uniform(-reach, reach), canvas.uniform(60, reach)]]), shore, turn)
        length = canvas.uniform(9, 22)
        if canvas.is_free(ellipse(1.4 * length, 1.4 * length) + spot[0], surfaces=False):
            objects.draw_ship(canvas, spot[0], canvas.uniform(0, 2 * np.pi), length, moving=True)


def _marina(canvas: Canvas, shore: np.ndarray, turn: float) -> None:
    """Draw piers at right angles to the shore with yachts on both sides."""
    boat, reach = canvas.uniform(10, 17), image_radius(canvas)
    pitch, far = boat * 3.1, canvas.uniform(60, 130)
    wood, full = canvas.pick_colour(((0.62, 0.56, 0.47), (0.70, 0.68, 0.64))), canvas.uniform(0.6, 0.95)
    for u in np.arange(-reach, reach, pitch) + canvas.uniform(0, pitch):
        pier = transform(rectangle(2.6, far, u, far / 2), shore, turn)
        if not (pier.min(0) < (canvas.width, canvas.height)).all() or not (pier.max(0) > 0).all():
            continue
        canvas.cast_shadow(pier, 1.2)
        canvas.fill_polygon(pier, wood)
        canvas.mark_occupied(pier)
        for side in (-1, 1):
            v = boat * 0.6
            while v < far - 2:
                length = boat * canvas.uniform(0.8, 1.1)
                local = np.array([[u + side * (1.9 + length / 2), v]])
                if canvas.chance(full * min(canvas.density, 1.0)):
                    heading = turn + (np.pi if (side > 0) != canvas.chance(0.7) else 0.0)
                    objects.draw_ship(canvas, transform(local, shore, turn)[0], heading, min(length, 16.9))
                v += boat * 0.46


def _docks(canvas: Canvas, shore: np.ndarray, turn: float) -> None:
    """Draw freighters along the quay and along broad jetties."""
    reach = image_radius(canvas)
    berths = [(u, 0.0) for u in np.arange(-reach, reach, 40.0).tolist()]
    spots = [(u, 6.0, 0.0) for u, _ in berths]
    for u in (np.arange(-reach, reach, 110.0) + canvas.uniform(0, 110)).tolist():
        far, broad = canvas.uniform(70, 120), canvas.uniform(10, 18)
        jetty = transform(rectangle(broad, far, u, far / 2), shore, turn)
        canvas.cast_shadow(jetty, 1.5)
        canvas.fill_polygon(jetty, canvas.pick_colour(scenery.CONCRETE))
        canvas.mark_occupied(jetty)
        for v in np.arange(26, far, 40.0).tolist():
            spots += [(u - broad / 2 - 5, v, np.pi / 2), (u + broad / 2 + 5, v, np.pi / 2)]
    for u, v, along in spots:
        if canvas.chance(0.75 * min(canvas.density, 1.0)):
            centre = transform(np.array([[u, v]]), shore, turn)[0]
            heading = turn + along + canvas.rng.choice([0, np.pi])
            objects.draw_ship(canvas, centre, heading, canvas.uniform(17.5, 34))


def open_sea(canvas: Canvas) -> None:
    """Draw ships on open water, some of them moving, and perhaps a coast."""
    fill_ground(canvas, "sea")
    if canvas.chance(0.5):
        turn = canvas.uniform(0, 2 * np.pi)
        path = scenery.crossing_path(canvas, turn, canvas.random_point(), canvas.uniform(-0.3, 0.3))
        land = canvas.polygon_mask(polyline_band(path, canvas.uniform(40, 140)), soften=2.0)
        ragged = fractal_noise(canvas.rng, canvas.height, canvas.width, 40.0, fine=2.0)
        land = land + 0.1 * ragged * smoothstep(land, 0.0, 0.2)
        sand = ground_texture(canvas.rng, "sand", canvas.height, canvas.width, canvas.sun)
        grass = ground_texture(canvas.rng, "grass", canvas.height, canvas.width, canvas.sun)
        surf = smoothstep(land, 0.12, 0.25)
        canvas.ground = blend(canvas.ground, canvas.ground * 0.6 + 0.32, surf)
        canvas.ground = blend(canvas.ground, sand, smoothstep(land, 0.3, 0.4))
        canvas.ground = blend(canvas.ground, grass, smoothstep(land, 0.7, 0.9))
        canvas.occupied[land > 0.1] |= 1
    swarm = canvas.chance(0.35)
    for _ in range(canvas.random_count(18, 40) if swarm else canvas.random_count(4, 14)):
        length = canvas.uniform(9, 19) if swarm else canvas.uniform(10, 32)
        centre = canvas.random_point(length / 3)
        if canvas.is_free(ellipse(1.5 * length, 1.5 * length) + centre):
            heading = canvas.uniform(0, 2 * np.pi)
            objects.draw_ship(canvas, centre, heading, length, moving=canvas.chance(0.6))


def river(canvas: Canvas) -> None:
    """Draw a river with bridges and ships."""
    if canvas.chance(0.5):
        fill_fields(canvas)
    else:
        fill_ground(canvas, "grass")
        mix_ground(canvas, "soil", 0.3)
    turn, wide = canvas.uniform(0, np.pi), canvas.uniform(9, 30)
    bend = canvas.uniform(-0.35, 0.35)
    # In the middle half of the image, so that the bridges are visible.
    through = image_centre(canvas) * 0.5 + canvas.random_point() * 0.5
    path = scenery.crossing_path(canvas, turn, through, bend)
    scenery.draw_water(canvas, polyline_band(path, wide), "river")
    bed = scenery.Road(path, wide, 1)
    shown = [p for p in bed.distance if canvas.is_inside(bed.at(float(p))[0], -10)]
    car = canvas.uniform(10.5, 14.5)
    bands: list[scenery.Road] = []
    if shown and canvas.density > 0:
        spacing = canvas.uniform(55, 95) / canvas.density
        for s in np.arange(shown[0] + canvas.uniform(0.1, 0.5) * min(spacing, 99.0), shown[-1], spacing):
            point, heading = bed.at(float(s))
            across = heading + np.pi / 2 + canvas.uniform(-0.3, 0.3)
            lanes = int(canvas.rng.choice([1, 2, 2, 2]))
            line = scenery.crossing_path(canvas, across, point)
            paint = canvas.pick_colour(scenery.ASPHALT)
            band = scenery.draw_road(canvas, line, car * 0.66, lanes, colour=paint, markings=lanes > 1)
            bands.append(band)
            length = wide / abs(np.sin(across - heading)) + 4
            objects.draw_bridge(canvas, point, across, length, car * 0.66 * lanes + 2.2, paint)
    for band in bands:
        scenery.add_traffic(canvas, band, car, canvas.uniform(3.0, 8.0))
    for _ in range(canvas.random_count(0, 7) if wide > 15 and shown else 0):
        point, heading = bed.at(canvas.uniform(shown[0], shown[-1]))
        side = direction(heading + np.pi / 2) * canvas.uniform(-0.25, 0.25) * wide
        if not any(np.linalg.norm(point - band.at(float(d))[0]) < 26 for band in bands for d in band.distance):
            length = canvas.uniform(8, min(16.0, wide))
            objects.draw_ship(canvas, point + side, heading, length, moving=canvas.chance(0.5))
    if canvas.chance(0.7):
        scenery.draw_forest(canvas, canvas.uniform(0.1, 0.4))
    scenery.scatter_trees(canvas, 10, 50, (6.0, 13.0))
