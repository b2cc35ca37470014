"""Themes of airports, industry and energy."""

from __future__ import annotations

import numpy as np

from d2tiny.synthetic import objects, scenery
from d2tiny.synthetic.canvas import Canvas, direction, ellipse, polyline_band, rectangle, transform
from d2tiny.synthetic.themes.terrain import fill_fields, fill_ground, image_centre, image_radius, mix_ground


def airport(canvas: Canvas) -> None:
    """Draw an apron with parked airliners, taxiways and service vehicles."""
    fill_ground(canvas, "grass")
    turn, reach = canvas.uniform(0, 2 * np.pi), image_radius(canvas) * 1.5
    plane = canvas.uniform(15, 28)
    origin = image_centre(canvas) - direction(turn + np.pi / 2) * canvas.uniform(0.1, 0.35) * canvas.height
    paving = canvas.pick_colour(scenery.CONCRETE)
    apron = transform(rectangle(2 * reach, plane * 3.4, 0, plane * 1.4), origin, turn)
    scenery.draw_paving(canvas, apron, paving, turn, canvas.uniform(6, 11))
    hall_depth = canvas.uniform(16, 26)
    terminal = transform(np.array([[0, -plane * 0.3 - hall_depth / 2]]), origin, turn)[0]
    scenery.draw_hall(canvas, terminal, turn, 2 * reach, hall_depth)
    tarmac = objects.shade(canvas.pick_colour(scenery.ASPHALT), 0.95)
    for v, broad in ((plane * 2.4, 9.0), (plane * 5.0, canvas.uniform(18, 26))):
        strip = transform(np.array([[-reach, v], [reach, v]]), origin, turn)
        canvas.fill_polygon(polyline_band(strip, broad), tarmac, flat=True)
        canvas.draw_line(strip[0], strip[1], 0.6, scenery.YELLOW if broad < 10 else scenery.WHITE, flat=True)
        canvas.reserve_surface(polyline_band(strip, broad))
        u = -reach + canvas.uniform(0, 160)
        while u < reach and canvas.density > 0:
            spot = transform(np.array([[u, v]]), origin, turn)[0]
            objects.draw_airplane(canvas, spot, turn + canvas.rng.choice([0, np.pi]), plane)
            u += canvas.uniform(90, 260) / canvas.density
    _stands(canvas, origin, turn, plane, reach)
    scenery.scatter_trees(canvas, 0, 15, (6.0, 12.0))


def _stands(canvas: Canvas, origin: np.ndarray, turn: float, plane: float, reach: float) -> None:
    """Draw airliners parked nose-in at the terminal, with vehicles around them."""
    full = canvas.uniform(0.55, 0.95) * min(canvas.density, 1.0)
    for u in np.arange(-reach, reach, plane * 1.2):
        centre = transform(np.array([[u, plane * 0.55]]), origin, turn)[0]
        tail = transform(np.array([[u, plane * 2.4]]), origin, turn)[0]
        canvas.draw_line(centre, tail, 0.4, scenery.YELLOW, flat=True)
        if canvas.chance(full):
            size = plane * canvas.uniform(0.8, 1.08)
            objects.draw_airplane(canvas, centre, turn - np.pi / 2 + canvas.rng.normal(0, 0.04), size)
        for _ in range(int(canvas.rng.poisson(1.0 * canvas.density))):
            local = np.array([[u + canvas.uniform(-0.6, 0.6) * plane, canvas.uniform(-0.1, 1.6) * plane]])
            spot = transform(local, origin, turn)[0]
            if canvas.is_free(ellipse(11, 11) + spot, surfaces=False):
                objects.draw_vehicle(canvas, spot, canvas.uniform(0, np.pi), canvas.uniform(7.0, 9.5))


def airfield(canvas: Canvas) -> None:
    """Draw light aircraft parked beside an airstrip."""
    fill_ground(canvas, canvas.rng.choice(["grass", "soil"]))
    mix_ground(canvas, "grass", 0.4)
    turn, reach = canvas.uniform(0, 2 * np.pi), image_radius(canvas) * 1.5
    plane, origin = canvas.uniform(9, 14), canvas.random_point(60)
    strip = transform(np.array([[-reach, 70.0], [reach, 70.0]]), origin, turn)
    canvas.fill_polygon(polyline_band(strip, 17), canvas.pick_colour(scenery.ASPHALT), flat=True)
    canvas.reserve_surface(polyline_band(strip, 20))
    for u in np.arange(-reach, reach, 14.0).tolist():
        dash = transform(rectangle(7, 0.7, u, 70), origin, turn)
        canvas.fill_polygon(dash, scenery.WHITE, flat=True)
    apron = transform(rectangle(plane * 15, plane * 5.4), origin, turn)
    scenery.draw_paving(canvas, apron, canvas.pick_colour((*scenery.ASPHALT, *scenery.CONCRETE)), turn, 9.0)
    for v in (-1.7, 0.0, 1.7):
        for u in np.arange(-6.5, 7.0, 1.45).tolist():
            if canvas.chance(0.6 * min(canvas.density, 1.0)):
                spot = transform(np.array([[u, v]]) * plane, origin, turn)[0]
                heading = turn + np.pi / 2 + canvas.rng.normal(0, 0.12)
                size = plane * canvas.uniform(0.85, 1.15)
                objects.draw_airplane(canvas, spot, heading, size, light=True)
    path = scenery.crossing_path(canvas, turn, transform(np.array([[0, -plane * 4.6]]), origin, turn)[0])
    scenery.add_traffic(canvas, scenery.draw_road(canvas, path, 8.5), 11.0, 5.0)
    for _ in range(canvas.random_count(2, 4, scenery=True)):
        spot, long, deep = canvas.random_point(), canvas.uniform(20, 36), canvas.uniform(15, 24)
        if canvas.is_free(transform(rectangle(long, deep) * 1.2, spot, turn)):
            scenery.draw_hall(canvas, spot, turn, long, deep)
    scenery.scatter_trees(canvas, 5, 30, (6.0, 13.0))


def tank_farm(canvas: Canvas) -> None:
    """Draw groups of storage tanks with pipes and service roads."""
    fill_ground(canvas, canvas.rng.choice(["soil", "concrete", "grass", "sand"]))
    turn, middle = canvas.uniform(0, np.pi), canvas.random_point()
    cell, reach = canvas.uniform(70, 95), image_radius(canvas) * 1.6
    car, asphalt = canvas.uniform(10.5, 13.5), canvas.pick_colour(scenery.ASPHALT)
    grid = np.arange(-np.ceil(reach / cell), np.ceil(reach / cell) + 1) * cell
    bands = scenery.draw_streets(canvas, middle, turn, grid[::2], car * 0.66, asphalt)
    bands += scenery.draw_streets(canvas, middle, turn + np.pi / 2, grid[1::3], car * 0.66, asphalt)
    for u in grid + cell / 2:
        for v in grid + cell / 2:
            centre = transform(np.array([[u, v]]), middle, turn)[0]
            if canvas.is_inside(centre, cell / 2):
                _tank_group(canvas, centre, turn, cell)
    for band in bands:
        scenery.add_traffic(canvas, band, car, 9.0)
    scenery.scatter_trees(canvas, 0, 20, (5.0, 10.0))


def _tank_group(canvas: Canvas, centre: np.ndarray, turn: float, cell: float) -> None:
    room = cell - 24
    if canvas.chance(0.15):
        scenery.draw_hall(canvas, centre, turn, room * 0.9, room * canvas.uniform(0.4, 0.8))
        return
    wall = transform(rectangle(room + 6, room + 6), centre, turn)
    floor = canvas.pick_colour((*scenery.CONCRETE, *scenery.DIRT))
    canvas.fill_polygon(wall, objects.shade(floor, 1.22), flat=True)
    canvas.fill_polygon(transform(rectangle(room + 4, room + 4), centre, turn), floor, flat=True)
    paint, floating = canvas.pick_colour(objects.TANK_PAINT), canvas.chance(0.45)
    across = int(canvas.rng.choice([2, 2, 3, 3, 4]))
    pitch = room / across
    diameter = pitch * canvas.uniform(0.6, 0.78)
    for j in range(across):
        row = (j + 0.5) * pitch - room / 2
        ends = transform(np.array([[-room / 2, row], [room / 2, row]]), centre, turn)
        canvas.draw_line(ends[0], ends[1], 0.7, (0.55, 0.54, 0.52), flat=True)
        for i in range(across):
            if canvas.chance(0.85 * min(canvas.density, 1.0)):
                spot = transform(np.array([[(i + 0.5) * pitch - room / 2, row]]), centre, turn)[0]
                objects.draw_storage_tank(canvas, spot, diameter, paint, floating=floating)


def wind_farm(canvas: Canvas) -> None:
    """Draw wind turbines on fields or dry land, with tracks leading to them."""
    if canvas.chance(0.6):
        fill_fields(canvas)
    else:
        fill_ground(canvas, canvas.rng.choice(["grass", "soil"]))
        mix_ground(canvas, "grass", 0.3)
    turn = canvas.uniform(0, np.pi)
    path = scenery.crossing_path(canvas, turn, canvas.random_point(30), canvas.uniform(-0.2, 0.2))
    dirt = canvas.pick_colour(scenery.DIRT)
    track = scenery.draw_road(canvas, path, 4.0, 1, colour=dirt, markings=False)
    if canvas.chance(0.5):
        line = scenery.crossing_path(canvas, turn + canvas.uniform(0.5, 2.5), canvas.random_point(30))
        scenery.add_traffic(canvas, scenery.draw_road(canvas, line, 8.0), canvas.uniform(10.5, 12), 5.0)
    lean, size = canvas.uniform(0, 2 * np.pi), canvas.uniform(9, 17)
    for _ in range(canvas.random_count(6, 14)):
        base = canvas.random_point(size * 0.8)
        around = ellipse(3.2 * size, 3.2 * size) + base
        if canvas.is_free(around):
            foot, _ = track.at(float(track.distance[np.argmin(np.linalg.norm(path - base, axis=1))]))
            if np.linalg.norm(foot - base) < 90:
                canvas.draw_line(base, foot, 1.6, dirt, flat=True)
            if objects.draw_wind_mill(canvas, base, lean, size * canvas.uniform(0.92, 1.08)):
                canvas.mark_occupied(ellipse(2.0 * size, 2.0 * size) + base)
    if canvas.chance(0.5):
        scenery.draw_forest(canvas, canvas.uniform(0.05, 0.25))
