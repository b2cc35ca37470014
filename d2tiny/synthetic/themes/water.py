"""Scenes at sea, in harbours and along rivers."""

from __future__ import annotations

import numpy as np

from d2tiny.synthetic import objects, scenery
from d2tiny.synthetic.canvas import Canvas, ellipse, place, rectangle, ribbon, unit
from d2tiny.synthetic.texture import blend, fractal, smoothstep, surface
from d2tiny.synthetic.themes.terrain import image_middle, image_reach, lay, lay_fields, mix_in


def harbour(canvas: Canvas) -> None:
    """Quays with freighters or a marina with boats side by side."""
    lay(canvas, "concrete")
    turn, reach = canvas.uniform(0, 2 * np.pi), image_reach(canvas) * 1.5
    shore = image_middle(canvas) - unit(turn + np.pi / 2) * canvas.uniform(0.05, 0.3) * canvas.height
    # Local frame: x along the shore, y out to sea.
    basin = place(rectangle(2 * reach, reach, 0, reach / 2), shore, turn)
    scenery.water_body(canvas, basin, "sea", shore=0.7)
    quay = place(rectangle(2 * reach, 7, 0, -3.5), shore, turn)
    canvas.fill(quay, canvas.pick(scenery.CONCRETE), flat=True)
    inland = place(np.array([[-reach, -20.0], [reach, -20.0]]), shore, turn)
    street = scenery.road(canvas, np.linspace(inland[0], inland[1], 8), 9.0)
    scenery.traffic(canvas, street, canvas.uniform(10.5, 13), 4.0)
    if canvas.chance(0.6):
        _marina(canvas, shore, turn)
    else:
        _docks(canvas, shore, turn)
    for _ in range(canvas.count(6, 14, scenery=True)):
        spot = place(np.array([[canvas.uniform(-reach, reach), canvas.uniform(-120, -42)]]), shore, turn)
        if canvas.chance(0.3):
            scenery.hall(canvas, spot[0], turn, canvas.uniform(25, 50), canvas.uniform(15, 24))
        else:
            rows, columns = canvas.rng.integers(2, 7), canvas.rng.integers(1, 5)
            scenery.containers(canvas, spot[0], turn, int(rows), int(columns))
    for _ in range(canvas.count(1, 5)):
        spot = place(np.array([[canvas.uniform(-reach, reach), canvas.uniform(60, reach)]]), shore, turn)
        length = canvas.uniform(9, 22)
        if canvas.free(ellipse(1.4 * length, 1.4 * length) + spot[0], surfaces=False):
            objects.ship(canvas, spot[0], canvas.uniform(0, 2 * np.pi), length, moving=True)


def _marina(canvas: Canvas, shore: np.ndarray, turn: float) -> None:
    """Piers at right angles to the shore, boats on both sides of each."""
    boat, reach = canvas.uniform(10, 17), image_reach(canvas)
    pitch, far = boat * 3.1, canvas.uniform(60, 130)
    wood, full = canvas.pick(((0.62, 0.56, 0.47), (0.70, 0.68, 0.64))), canvas.uniform(0.6, 0.95)
    for u in np.arange(-reach, reach, pitch) + canvas.uniform(0, pitch):
        pier = place(rectangle(2.6, far, u, far / 2), shore, turn)
        if not (pier.min(0) < (canvas.width, canvas.height)).all() or not (pier.max(0) > 0).all():
            continue
        canvas.cast(pier, 1.2)
        canvas.fill(pier, wood)
        canvas.block(pier)
        for side in (-1, 1):
            v = boat * 0.6
            while v < far - 2:
                length = boat * canvas.uniform(0.8, 1.1)
                local = np.array([[u + side * (1.9 + length / 2), v]])
                if canvas.chance(full * min(canvas.density, 1.0)):
                    heading = turn + (np.pi if (side > 0) != canvas.chance(0.7) else 0.0)
                    objects.ship(canvas, place(local, shore, turn)[0], heading, min(length, 16.9))
                v += boat * 0.46


def _docks(canvas: Canvas, shore: np.ndarray, turn: float) -> None:
    """Freighters along the quay and along one or two broad jetties."""
    reach = image_reach(canvas)
    berths = [(u, 0.0) for u in np.arange(-reach, reach, 40.0).tolist()]
    spots = [(u, 6.0, 0.0) for u, _ in berths]
    for u in (np.arange(-reach, reach, 110.0) + canvas.uniform(0, 110)).tolist():
        far, broad = canvas.uniform(70, 120), canvas.uniform(10, 18)
        jetty = place(rectangle(broad, far, u, far / 2), shore, turn)
        canvas.cast(jetty, 1.5)
        canvas.fill(jetty, canvas.pick(scenery.CONCRETE))
        canvas.block(jetty)
        for v in np.arange(26, far, 40.0).tolist():
            spots += [(u - broad / 2 - 5, v, np.pi / 2), (u + broad / 2 + 5, v, np.pi / 2)]
    for u, v, along in spots:
        if canvas.chance(0.75 * min(canvas.density, 1.0)):
            centre = place(np.array([[u, v]]), shore, turn)[0]
            heading = turn + along + canvas.rng.choice([0, np.pi])
            objects.ship(canvas, centre, heading, canvas.uniform(17.5, 34))


def open_sea(canvas: Canvas) -> None:
    """Ships under way, some at anchor, and perhaps a coast."""
    lay(canvas, "sea")
    if canvas.chance(0.5):
        turn = canvas.uniform(0, 2 * np.pi)
        path = scenery.crossing_path(canvas, turn, canvas.anywhere(), canvas.uniform(-0.3, 0.3))
        land = canvas.mask(ribbon(path, canvas.uniform(40, 140)), soften=2.0)
        ragged = fractal(canvas.rng, canvas.height, canvas.width, 40.0, fine=2.0)
        land = land + 0.1 * ragged * smoothstep(land, 0.0, 0.2)
        sand = surface(canvas.rng, "sand", canvas.height, canvas.width, canvas.sun)
        grass = surface(canvas.rng, "grass", canvas.height, canvas.width, canvas.sun)
        surf = smoothstep(land, 0.12, 0.25)
        canvas.ground = blend(canvas.ground, canvas.ground * 0.6 + 0.32, surf)
        canvas.ground = blend(canvas.ground, sand, smoothstep(land, 0.3, 0.4))
        canvas.ground = blend(canvas.ground, grass, smoothstep(land, 0.7, 0.9))
        canvas.occupied[land > 0.1] |= 1
    swarm = canvas.chance(0.35)
    for _ in range(canvas.count(18, 40) if swarm else canvas.count(4, 14)):
        length = canvas.uniform(9, 19) if swarm else canvas.uniform(10, 32)
        centre = canvas.anywhere(length / 3)
        if canvas.free(ellipse(1.5 * length, 1.5 * length) + centre):
            heading = canvas.uniform(0, 2 * np.pi)
            objects.ship(canvas, centre, heading, length, moving=canvas.chance(0.6))


def river(canvas: Canvas) -> None:
    """A river or canal, the bridges over it, and boats."""
    if canvas.chance(0.5):
        lay_fields(canvas)
    else:
        lay(canvas, "grass")
        mix_in(canvas, "soil", 0.3)
    turn, wide = canvas.uniform(0, np.pi), canvas.uniform(9, 30)
    bend = canvas.uniform(-0.35, 0.35)
    # Started in the middle half so that the bridges are in the picture.
    through = image_middle(canvas) * 0.5 + canvas.anywhere() * 0.5
    path = scenery.crossing_path(canvas, turn, through, bend)
    scenery.water_body(canvas, ribbon(path, wide), "river")
    bed = scenery.Road(path, wide, 1)
    shown = [p for p in bed.distance if canvas.inside(bed.at(float(p))[0], -10)]
    car = canvas.uniform(10.5, 14.5)
    bands: list[scenery.Road] = []
    if shown and canvas.density > 0:
        spacing = canvas.uniform(55, 95) / canvas.density
        for s in np.arange(shown[0] + canvas.uniform(0.1, 0.5) * min(spacing, 99.0), shown[-1], spacing):
            point, heading = bed.at(float(s))
            across = heading + np.pi / 2 + canvas.uniform(-0.3, 0.3)
            lanes = int(canvas.rng.choice([1, 2, 2, 2]))
            line = scenery.crossing_path(canvas, across, point)
            paint = canvas.pick(scenery.ASPHALT)
            band = scenery.road(canvas, line, car * 0.66, lanes, colour=paint, markings=lanes > 1)
            bands.append(band)
            length = wide / abs(np.sin(across - heading)) + 4
            objects.bridge(canvas, point, across, length, car * 0.66 * lanes + 2.2, paint)
    for band in bands:
        scenery.traffic(canvas, band, car, canvas.uniform(3.0, 8.0))
    for _ in range(canvas.count(0, 7) if wide > 15 and shown else 0):
        point, heading = bed.at(canvas.uniform(shown[0], shown[-1]))
        side = unit(heading + np.pi / 2) * canvas.uniform(-0.25, 0.25) * wide
        if not any(np.linalg.norm(point - band.at(float(d))[0]) < 26 for band in bands for d in band.distance):
            length = canvas.uniform(8, min(16.0, wide))
            objects.ship(canvas, point + side, heading, length, moving=canvas.chance(0.5))
    if canvas.chance(0.7):
        scenery.woods(canvas, canvas.uniform(0.1, 0.4))
    scenery.trees(canvas, 10, 50, (6.0, 13.0))
