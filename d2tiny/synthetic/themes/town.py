"""Themes of towns and roads."""

from __future__ import annotations

import numpy as np

from d2tiny.synthetic import objects, scenery
from d2tiny.synthetic.canvas import Canvas, ellipse, rectangle, transform
from d2tiny.synthetic.texture import blend
from d2tiny.synthetic.themes.terrain import fill_fields, fill_ground, image_radius, mix_ground


def suburb(canvas: Canvas) -> None:
    """Draw streets with houses, gardens, pools and parked cars."""
    fill_ground(canvas, "grass")
    mix_ground(canvas, "soil", 0.15)
    angle, middle, reach = canvas.uniform(0, np.pi), canvas.random_point(), image_radius(canvas) * 1.6
    car = canvas.uniform(11.5, 16.0)
    lane, lot, depth = car * 0.66, car * canvas.uniform(3.2, 3.9), car * 3.9
    pitch = 2 * depth + 2 * lane
    asphalt = canvas.pick_colour(scenery.ASPHALT)
    streets = np.arange(-np.ceil(reach / pitch), np.ceil(reach / pitch) + 1) * pitch
    bands = scenery.draw_streets(canvas, middle, angle, streets, lane, asphalt)
    bands += scenery.draw_streets(canvas, middle, angle + np.pi / 2, np.zeros(1), lane, asphalt)
    for v in streets:
        for side in (-1, 1):
            for u in np.arange(-reach, reach, lot):
                row = v + side * (lane + depth * 0.42)
                _plot(canvas, middle, angle, np.array([u, row]), side, car)
    for band in bands:
        scenery.add_traffic(canvas, band, car, 5.0)
    scenery.scatter_trees(canvas, 25, 60, (7.0, 17.0))


def _plot(canvas: Canvas, middle: np.ndarray, angle: float, spot: np.ndarray, side: int, car: float) -> None:
    """Draw a house with a driveway, and perhaps a car and a pool."""
    centre = transform(spot[None], middle, angle)[0]
    length, width = car * canvas.uniform(1.8, 2.4), car * canvas.uniform(1.2, 1.6)
    yard = transform(rectangle(car * 2.6, car * 2.0), centre, angle)
    if not canvas.is_inside(centre, 3 * car) or not canvas.is_free(yard):
        return
    drive = spot + np.array([-car * 1.25, -side * car * 0.9])
    stripe = rectangle(car * 0.66, car * 2.6, *drive)
    canvas.fill_polygon(transform(stripe, middle, angle), canvas.pick_colour(scenery.CONCRETE), flat=True)
    scenery.draw_house(canvas, centre, angle, length, width)
    if canvas.chance(0.55 * canvas.density):
        parked = transform((drive + np.array([0, -side * car * 0.2]))[None], middle, angle)[0]
        objects.draw_vehicle(canvas, parked, angle + np.pi / 2 * canvas.rng.choice([-1, 1]), car)
    if canvas.chance(0.5 * canvas.density):
        size = canvas.uniform(10, 19)
        aside, behind = canvas.uniform(-0.6, 0.6) * car, width / 2 + size * 0.5 + 4
        back = spot + np.array([aside, side * behind])
        pool = transform(back[None], middle, angle)[0]
        room = ellipse(size * 1.3, size * 1.1) + pool
        if canvas.is_free(room):
            objects.draw_swimming_pool(canvas, pool, angle + canvas.rng.choice([0, np.pi / 2]), size)


def resort(canvas: Canvas) -> None:
    """Draw hotels with pools among lawns and trees."""
    fill_ground(canvas, canvas.rng.choice(["grass", "sand", "soil"]))
    mix_ground(canvas, "grass", 0.35)
    angle = canvas.uniform(0, np.pi)
    path = scenery.crossing_path(canvas, angle, canvas.random_point(), canvas.uniform(-0.3, 0.3))
    street = scenery.draw_road(canvas, path, 8.0)
    scenery.add_traffic(canvas, street, canvas.uniform(10, 13), 4.0)
    for _ in range(canvas.random_count(4, 8, scenery=True)):
        centre, long, deep = canvas.random_point(), canvas.uniform(28, 60), canvas.uniform(18, 30)
        if canvas.is_free(transform(rectangle(long + 6, deep + 6), centre, angle)):
            scenery.draw_hall(canvas, centre, angle, long, deep)
    for _ in range(canvas.random_count(8, 22)):
        centre, size = canvas.random_point(6), canvas.uniform(8, 22)
        terrace = transform(rectangle(size * 1.5, size * 1.2), centre, angle)
        if canvas.is_free(terrace):
            canvas.fill_polygon(terrace, canvas.pick_colour(scenery.CONCRETE), flat=True)
            objects.draw_swimming_pool(canvas, centre, angle, size)
    scenery.scatter_trees(canvas, 40, 80, (5.0, 12.0))


def parking(canvas: Canvas) -> None:
    """Draw car parks with dense rows of cars around large roofs."""
    fill_ground(canvas, canvas.rng.choice(["soil", "concrete", "grass", "grass"]))
    angle, car = canvas.uniform(0, np.pi), canvas.uniform(10.5, 18.0)
    path = scenery.crossing_path(canvas, angle, canvas.random_point())
    street = scenery.draw_road(canvas, path, car * 0.72, int(canvas.rng.choice([2, 4])))
    scenery.add_traffic(canvas, street, car, 3.0)
    for k in range(canvas.random_count(30, 45, scenery=True)):
        spot = canvas.random_point()
        if k % 6 == 5:
            size = (canvas.uniform(50, 110), canvas.uniform(35, 60))
            if canvas.is_free(transform(rectangle(*size), spot, angle)):
                scenery.draw_hall(canvas, spot, angle, *size)
        else:
            _car_park(canvas, spot, angle, car)
    scenery.scatter_trees(canvas, 10, 40, (5.0, 12.0))


def _car_park(canvas: Canvas, centre: np.ndarray, angle: float, car: float) -> None:
    """Draw a car park: double rows of marked bays, most of them occupied."""
    bay, deep = car * 0.62, car * 1.2
    columns, blocks = int(canvas.rng.integers(7, 17)), int(canvas.rng.integers(1, 4))
    module = 2 * deep + car * 1.5
    size = (columns * bay + car * 1.5, blocks * module)
    outline = transform(rectangle(*size), centre, angle)
    if not canvas.is_free(outline):
        return
    asphalt = canvas.pick_colour(scenery.ASPHALT)
    canvas.fill_polygon(outline, asphalt, flat=True)
    canvas.reserve_surface(outline)
    taken = canvas.uniform(0.4, 0.95) * min(canvas.density, 1.0)
    for block in range(blocks):
        for side in (-1, 1):
            v = (block + 0.5) * module - size[1] / 2 + side * deep / 2
            for k in range(columns + 1):
                u = (k - columns / 2) * bay
                line = transform(rectangle(0.4, deep, u, v), centre, angle)
                canvas.fill_polygon(line, objects.shade(asphalt, 1.7), flat=True)
                if k < columns and canvas.chance(taken):
                    local = np.array([[u + bay / 2, v + canvas.uniform(-0.06, 0.06) * car]])
                    heading = angle + np.pi / 2 * canvas.rng.choice([-1, 1])
                    objects.draw_car(canvas, transform(local, centre, angle)[0], heading, car, van=canvas.chance(0.1))


def highway(canvas: Canvas) -> None:
    """Draw a motorway, perhaps with roads across it, through fields and forest."""
    fill_fields(canvas)
    angle, car = canvas.uniform(0, np.pi), canvas.uniform(11.0, 18.0)
    lanes = int(canvas.rng.choice([4, 4, 6]))
    path = scenery.crossing_path(canvas, angle, canvas.random_point(40), canvas.uniform(-0.25, 0.25))
    bands = [scenery.draw_road(canvas, path, car * 0.62, lanes)]
    for _ in range(canvas.random_count(0.3, 1.6, scenery=True)):
        turn = angle + canvas.uniform(0.4, 2.7)
        path = scenery.crossing_path(canvas, turn, canvas.random_point(20), canvas.uniform(-0.2, 0.2))
        bands.append(scenery.draw_road(canvas, path, car * 0.62))
    for band in bands:
        scenery.add_traffic(canvas, band, car, canvas.uniform(1.0, 4.5))
    if canvas.chance(0.7):
        scenery.draw_forest(canvas, canvas.uniform(0.1, 0.35))
    scenery.scatter_trees(canvas, 0, 25, (6.0, 14.0))


def downtown(canvas: Canvas) -> None:
    """Draw city blocks with flat roofs in a grid of streets with traffic."""
    fill_ground(canvas, "concrete")
    angle, middle, reach = canvas.uniform(0, np.pi), canvas.random_point(), image_radius(canvas) * 1.6
    car = canvas.uniform(10.0, 14.5)
    lane, block = car * 0.68, car * canvas.uniform(6.5, 8.5)
    asphalt = canvas.pick_colour(scenery.ASPHALT)
    grid = np.arange(-np.ceil(reach / block), np.ceil(reach / block) + 1) * block
    bands = scenery.draw_streets(canvas, middle, angle, grid, lane, asphalt, markings=True)
    bands += scenery.draw_streets(canvas, middle, angle + np.pi / 2, grid, lane, asphalt, markings=True)
    room = block - 2 * lane - car * 0.9
    for u in grid + block / 2:
        for v in grid + block / 2:
            centre = transform(np.array([[u, v]]), middle, angle)[0]
            if canvas.is_inside(centre, block) and canvas.chance(0.9):
                _city_block(canvas, centre, angle, room)
    for band in bands:
        scenery.add_traffic(canvas, band, car, 3.5)
    scenery.scatter_trees(canvas, 10, 40, (5.0, 9.0))


def _city_block(canvas: Canvas, centre: np.ndarray, angle: float, room: float) -> None:
    if canvas.chance(0.2):
        lawn = canvas.polygon_mask(transform(rectangle(room, room), centre, angle), soften=0.7)
        green = np.array(canvas.pick_colour(((0.36, 0.43, 0.24),)), np.float32)
        canvas.ground = blend(canvas.ground, green, lawn)
        return
    parts = int(canvas.rng.integers(1, 4))
    for k in range(parts):
        depth = room / parts
        local = np.array([[0, (k + 0.5) * depth - room / 2]])
        spot = transform(local, centre, angle)[0]
        scenery.draw_hall(canvas, spot, angle, room * canvas.uniform(0.75, 0.98), depth * 0.9)
