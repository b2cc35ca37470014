"""The eight annotated classes of objects.

Each function first asks the canvas whether the object can be placed, and returns whether it was drawn. Angles are in
radians, the front of an object points along +x before rotation, and sizes are in px.
"""

from __future__ import annotations

import numpy as np

from d2tiny.synthetic.canvas import Canvas, direction, ellipse, mirror_outline, rectangle, transform
from d2tiny.synthetic.texture import Colour

_CAR_PAINT: tuple[Colour, ...] = (
    (0.93, 0.93, 0.92), (0.90, 0.91, 0.92), (0.95, 0.95, 0.94), (0.74, 0.75, 0.77),
    (0.70, 0.71, 0.72), (0.15, 0.15, 0.16), (0.19, 0.19, 0.21), (0.26, 0.27, 0.29),
    (0.66, 0.13, 0.12), (0.55, 0.10, 0.12), (0.15, 0.24, 0.48), (0.22, 0.35, 0.60),
    (0.78, 0.72, 0.58), (0.80, 0.62, 0.16),
)  # fmt: skip
_CARGO_PAINT: tuple[Colour, ...] = (
    (0.93, 0.93, 0.92), (0.90, 0.90, 0.88), (0.72, 0.74, 0.76), (0.20, 0.36, 0.58),
    (0.66, 0.22, 0.16), (0.30, 0.45, 0.34), (0.84, 0.66, 0.24),
)  # fmt: skip
_CONTAINER_PAINT: tuple[Colour, ...] = (
    (0.62, 0.20, 0.15), (0.16, 0.32, 0.52), (0.24, 0.44, 0.36), (0.80, 0.52, 0.18),
    (0.82, 0.82, 0.80), (0.46, 0.46, 0.48), (0.52, 0.18, 0.24),
)  # fmt: skip
_GLASS: Colour = (0.12, 0.15, 0.18)


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour multiplied by a factor: below 1 darker, above 1 lighter."""
    r, g, b = (min(c * factor, 1.0) for c in colour)
    return r, g, b


# ---- vehicle -------------------------------------------------------------------------------------


def draw_vehicle(canvas: Canvas, centre: np.ndarray, angle: float, length: float) -> bool:
    """Draw a car of the given length, or sometimes a van or a longer truck."""
    kind = canvas.rng.choice(3, p=[0.82, 0.1, 0.08])
    if kind == 2:
        return draw_truck(canvas, centre, angle, length * canvas.uniform(1.35, 1.8), length * 0.5)
    return draw_car(canvas, centre, angle, length * (1.0 if kind == 0 else 1.12), van=bool(kind == 1))


def draw_car(canvas: Canvas, centre: np.ndarray, angle: float, length: float, *, van: bool = False) -> bool:
    """Draw a passenger car or van with rounded body, windows and roof."""
    length *= canvas.uniform(0.93, 1.07)
    width = length * (0.46 if van else canvas.uniform(0.41, 0.46))
    body = transform(ellipse(length, width, power=5.0), centre, angle)
    if not canvas.add_object("vehicle", body):
        return False
    paint = canvas.contrasting_colour(canvas.pick_colour(_CARGO_PAINT if van else _CAR_PAINT), centre)
    canvas.cast_shadow(body, length * (0.5 if van else 0.33))
    canvas.fill_polygon(body, shade(paint, 0.78))
    # The upper surface, shifted towards the sun so that the far side stays darker.
    canvas.fill_polygon(transform(ellipse(length * 0.95, width * 0.86, 5.0), centre - canvas.sun * 0.3, angle), paint)
    wind, rear = (0.36, -0.46) if van else (0.17, -0.33)
    glass = np.array([[wind, -0.36], [wind - 0.12, -0.30], [wind - 0.12, 0.30], [wind, 0.36]])
    canvas.fill_polygon(transform(glass * (length, width), centre, angle), _GLASS)
    if not van:
        back = rectangle(0.09 * length, 0.62 * width, rear * length)
        canvas.fill_polygon(transform(back, centre, angle), _GLASS)
    roof = rectangle((wind - 0.12 - rear - 0.06) * length, 0.62 * width, 0)
    roof[:, 0] += (wind - 0.12 + rear + 0.06) / 2 * length
    # Even a black roof reflects some sky, which distinguishes it from its shadow.
    r, g, b = shade(paint, 1.1)
    canvas.fill_polygon(transform(roof, centre, angle), (r + 0.05, g + 0.05, b + 0.06))
    return True


def draw_truck(canvas: Canvas, centre: np.ndarray, angle: float, length: float, width: float) -> bool:
    """Draw a truck: a cab and a cargo box."""
    cab = transform(rectangle(length * 0.2, width * 0.9, length * 0.4), centre, angle)
    box = transform(rectangle(length * 0.78, width, -length * 0.11), centre, angle)
    if not canvas.add_object("vehicle", cab, box):
        return False
    paint = canvas.contrasting_colour(canvas.pick_colour(_CARGO_PAINT), centre)
    canvas.cast_shadow(np.concatenate([cab, box]), width * 1.2)
    canvas.fill_polygon(cab, canvas.contrasting_colour(canvas.pick_colour(_CARGO_PAINT), centre))
    windscreen = rectangle(length * 0.04, width * 0.75, length * 0.46)
    canvas.fill_polygon(transform(windscreen, centre, angle), _GLASS)
    canvas.fill_polygon(box, shade(paint, 0.72))
    top = transform(rectangle(length * 0.75, width * 0.86, -length * 0.11), centre, angle)
    canvas.fill_polygon(top - canvas.sun * 0.25, paint)
    return True


# ---- airplane ------------------------------------------------------------------------------------

_JET = (
    mirror_outline([(0.5, 0.0), (0.475, 0.032), (0.40, 0.052), (-0.25, 0.052), (-0.44, 0.026), (-0.5, 0.01)]),
    mirror_outline([(0.14, 0.045), (-0.13, 0.47), (-0.19, 0.47), (-0.08, 0.10), (-0.09, 0.045)]),
    mirror_outline([(-0.35, 0.02), (-0.45, 0.18), (-0.50, 0.18), (-0.46, 0.02)]),
)
_PROP = (
    mirror_outline([(0.5, 0.0), (0.46, 0.05), (0.2, 0.075), (-0.1, 0.06), (-0.5, 0.02)]),
    mirror_outline([(0.24, 0.05), (0.21, 0.62), (0.07, 0.62), (0.04, 0.05)]),
    mirror_outline([(-0.36, 0.02), (-0.38, 0.22), (-0.49, 0.22), (-0.49, 0.02)]),
)  # a light aircraft: straight wings, wider than it is long
_PLANE_PAINT: tuple[Colour, ...] = ((0.95, 0.95, 0.95), (0.92, 0.93, 0.94), (0.80, 0.82, 0.84))
_TRIM: tuple[Colour, ...] = (
    (0.68, 0.14, 0.14), (0.12, 0.22, 0.50), (0.10, 0.42, 0.45), (0.85, 0.60, 0.15),
    (0.30, 0.31, 0.33),
)  # fmt: skip


def draw_airplane(canvas: Canvas, centre: np.ndarray, angle: float, length: float, *, light: bool = False) -> bool:
    """Draw an airliner, or with `light` a small propeller aircraft."""
    shape = _PROP if light else _JET
    body, wings, tail = (transform(part * length, centre, angle) for part in shape)
    if not canvas.add_object("airplane", body, wings, tail):
        return False
    paint = canvas.contrasting_colour(canvas.pick_colour(_PLANE_PAINT, 0.02), centre, 0.2)
    trim = canvas.pick_colour(_TRIM)
    for part in (body, wings, tail):
        canvas.cast_shadow(part, length * 0.09, convex=False)
    if not light:
        for x, y in ((0.06, 0.17), (-0.03, 0.30)) if canvas.chance(0.4) else ((0.05, 0.17),):
            for side in (y, -y):
                pod = ellipse(0.11, 0.05, 3.0) * length + np.array([x, side]) * length
                canvas.fill_polygon(transform(pod, centre, angle), (0.36, 0.37, 0.40))
    canvas.fill_polygon(wings, shade(paint, 0.86))
    canvas.fill_polygon(tail, shade(paint, 0.86))
    canvas.fill_polygon(body, shade(paint, 0.80))
    canvas.fill_polygon(transform(shape[0] * (length * 0.96, length * 0.72), centre - canvas.sun * 0.2, angle), paint)
    fin = np.array([[-0.3, -0.008], [-0.5, -0.022], [-0.5, 0.022], [-0.3, 0.008]]) * length
    canvas.fill_polygon(transform(fin, centre, angle), trim)
    if light:
        canvas.fill_polygon(transform(rectangle(0.1, 0.1, 0.27) * length, centre, angle), _GLASS)
    else:
        canvas.fill_polygon(transform(rectangle(0.02, 0.05, 0.465) * length, centre, angle), _GLASS)
    return True


# ---- ship ----------------------------------------------------------------------------------------

_HULL = mirror_outline([(0.5, 0.0), (0.43, 0.22), (0.30, 0.40), (0.12, 0.49), (-0.42, 0.48), (-0.5, 0.40)])
_HULL_PAINT: tuple[Colour, ...] = (
    (0.55, 0.17, 0.13), (0.20, 0.22, 0.26), (0.13, 0.17, 0.26), (0.30, 0.34, 0.36),
    (0.75, 0.76, 0.76),
)  # fmt: skip
_DECK_PAINT: tuple[Colour, ...] = (
    (0.60, 0.36, 0.27),
    (0.62, 0.64, 0.62),
    (0.45, 0.58, 0.50),
    (0.70, 0.66, 0.58),
)
_YACHT_DECK: tuple[Colour, ...] = (
    (0.72, 0.58, 0.42),
    (0.88, 0.88, 0.86),
    (0.84, 0.80, 0.72),
    (0.35, 0.47, 0.62),
)


def draw_wake(canvas: Canvas, centre: np.ndarray, angle: float, length: float, width: float) -> None:
    """Draw white water behind and beside a moving ship; call this before drawing the ship."""
    far, strength = length * canvas.uniform(1.0, 3.0), canvas.uniform(0.25, 0.6)
    steps = 5
    for k in range(steps):
        # Later bands are shorter and brighter, and overwrite the faint ones that reach further.
        reach = -length * 0.4 - far * (1 - k / steps)
        spread = width * (0.35 + 0.5 * (1 - k / steps))
        band = [[-length * 0.4, -width * 0.3], [reach, -spread], [reach, spread]]
        band.append([-length * 0.4, width * 0.3])
        canvas.add_foam(transform(np.array(band), centre, angle), strength * (k + 1.5) / (steps + 1))
    for side in (-1, 1):
        arm = [[length * 0.48, 0], [-length * 0.9, side * width * 1.3]]
        arm.append([-length * 0.8, side * width * 0.95])
        canvas.add_foam(transform(np.array(arm), centre, angle), strength * 0.7)


def draw_ship(canvas: Canvas, centre: np.ndarray, angle: float, length: float, *, moving: bool = False) -> bool:
    """Draw a yacht, or if it is long enough possibly a freighter; a moving ship has a wake."""
    freighter = length > 22 or (length > 17 and canvas.chance(0.6))
    width = length * (canvas.uniform(0.17, 0.23) if freighter else canvas.uniform(0.28, 0.38))
    width = max(width, 3.2)
    size = (length, width)
    hull = transform(_HULL * size, centre, angle)
    if not canvas.add_object("ship", hull):
        return False
    if moving:
        draw_wake(canvas, centre, angle, length, width)
    canvas.cast_shadow(hull, width * 0.35)
    if freighter:
        _freighter(canvas, hull, centre, angle, size)
    else:
        _yacht(canvas, hull, centre, angle, size)
    return True


def _yacht(canvas: Canvas, hull: np.ndarray, centre: np.ndarray, angle: float, size: tuple[float, float]) -> None:
    white = canvas.contrasting_colour((0.94, 0.95, 0.95), centre, 0.3)
    canvas.fill_polygon(hull, shade(white, 0.85))
    canvas.fill_polygon(transform(_HULL * size * (0.93, 0.82), centre - canvas.sun * 0.2, angle), white)
    deck = rectangle(0.3, 0.62, -0.28) * size
    canvas.fill_polygon(transform(deck, centre, angle), canvas.pick_colour(_YACHT_DECK))
    cabin = rectangle(0.34, 0.56, 0.02) * size
    canvas.fill_polygon(transform(cabin, centre, angle), (0.22, 0.26, 0.31))
    canvas.fill_polygon(transform(rectangle(0.22, 0.5, 0.0) * size, centre, angle), shade(white, 0.97))


def _freighter(canvas: Canvas, hull: np.ndarray, centre: np.ndarray, angle: float, size: tuple[float, float]) -> None:
    paint = canvas.contrasting_colour(canvas.pick_colour(_HULL_PAINT), centre, 0.22)
    canvas.fill_polygon(hull, paint)
    deck = canvas.contrasting_colour(canvas.pick_colour(_DECK_PAINT), centre, 0.28)
    canvas.fill_polygon(transform(_HULL * size * (0.94, 0.76), centre, angle), deck)
    loaded = canvas.chance(0.5)
    for x in np.arange(-0.2, 0.22, 0.105).tolist():
        if loaded:
            for y in (-0.2, 0.2):
                box = rectangle(0.09, 0.36, x, y) * size
                canvas.fill_polygon(transform(box, centre, angle), canvas.pick_colour(_CONTAINER_PAINT))
        else:
            hatch = rectangle(0.075, 0.5, x) * size
            canvas.fill_polygon(transform(hatch, centre, angle), shade(deck, 0.82))
    bridge = rectangle(0.12, 0.72, -0.36) * size
    canvas.fill_polygon(transform(bridge, centre, angle), (0.93, 0.93, 0.92))
    funnel = rectangle(0.05, 0.3, -0.44) * size
    canvas.fill_polygon(transform(funnel, centre, angle), (0.25, 0.22, 0.22))


# ---- storage-tank --------------------------------------------------------------------------------

TANK_PAINT: tuple[Colour, ...] = (
    (0.92, 0.92, 0.90), (0.88, 0.88, 0.86), (0.80, 0.80, 0.78), (0.78, 0.74, 0.66),
    (0.62, 0.50, 0.42),
)  # fmt: skip


def draw_storage_tank(canvas: Canvas, centre: np.ndarray, diameter: float, paint: Colour, *, floating: bool) -> bool:
    """Draw a cylindrical tank with a cone roof, or with a floating roof below the rim."""
    outline = ellipse(diameter, diameter) + centre
    if not canvas.add_object("storage-tank", outline):
        return False
    paint = canvas.contrasting_colour(paint, centre, 0.18)
    canvas.cast_shadow(outline, diameter * canvas.uniform(0.35, 0.5))
    canvas.fill_polygon(outline, shade(paint, 0.76))
    rim = max(0.06 * diameter, 0.5)
    canvas.fill_polygon(ellipse(diameter - rim, diameter - rim) + centre - canvas.sun * rim / 2, shade(paint, 1.12))
    inner = ellipse(diameter - 2.6 * rim, diameter - 2.6 * rim) + centre
    if floating:
        # The wall on the side of the sun casts a crescent-shaped shadow on the lower roof.
        canvas.fill_polygon(inner, shade(paint, 0.42))
        small = diameter * 0.74
        canvas.fill_polygon(ellipse(small, small) + centre + canvas.sun * 0.09 * diameter, shade(paint, 0.84))
    else:
        canvas.fill_polygon(inner, shade(paint, 0.97))
        cone = inner - centre
        canvas.fill_polygon(cone[cone @ canvas.sun >= 0] + centre, shade(paint, 0.90))
        canvas.fill_polygon(ellipse(0.1 * diameter, 0.1 * diameter) + centre, shade(paint, 0.65))
    return True


# ---- swimming-pool -------------------------------------------------------------------------------

_POOL_WATER: tuple[Colour, ...] = (
    (0.27, 0.74, 0.80), (0.34, 0.78, 0.84), (0.20, 0.64, 0.77), (0.30, 0.70, 0.86),
)  # fmt: skip


def draw_swimming_pool(canvas: Canvas, centre: np.ndarray, angle: float, length: float) -> bool:
    """Draw a pool of turquoise water with a light edge, which is not part of the box."""
    form = canvas.rng.choice(4, p=[0.45, 0.25, 0.15, 0.15])
    if form == 0:
        local = ellipse(length, length * canvas.uniform(0.45, 0.6), power=8.0)
    elif form == 1:
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        radius = 0.40 + 0.10 * np.cos(2 * turn) - 0.07 * np.sin(turn)
        local = np.stack([radius * np.cos(turn), radius * np.sin(turn)], 1) * length
    elif form == 2:
        local = ellipse(length * 0.66, length * 0.66)
    else:
        local = ellipse(length, length * canvas.uniform(0.5, 0.65))
    water = transform(local, centre, angle)
    if not canvas.add_object("swimming-pool", water):
        return False
    grow = 1 + 1.6 / length
    canvas.fill_polygon(transform(local * grow, centre, angle), (0.80, 0.78, 0.73), flat=True)
    tint = canvas.contrasting_colour(canvas.pick_colour(_POOL_WATER, 0.03), centre, 0.2)
    canvas.fill_polygon(water, tint)
    # The wall on the side of the sun shades a strip of water; the far end is lighter.
    canvas.fill_polygon(transform(local * 0.8, centre + canvas.sun * 0.05 * length, angle), shade(tint, 1.09))
    return True


# ---- person --------------------------------------------------------------------------------------

_CLOTHES: tuple[Colour, ...] = (
    (0.93, 0.93, 0.92), (0.10, 0.10, 0.12), (0.13, 0.15, 0.28), (0.75, 0.13, 0.14),
    (0.16, 0.32, 0.62), (0.88, 0.72, 0.20), (0.18, 0.36, 0.22), (0.82, 0.42, 0.52),
)  # fmt: skip
_HAIR: tuple[Colour, ...] = ((0.10, 0.08, 0.07), (0.25, 0.17, 0.12), (0.55, 0.44, 0.28))


def draw_person(canvas: Canvas, centre: np.ndarray, angle: float, size: float) -> bool:
    """Draw a person: shoulders across the walking direction, a head, and a long shadow; `size` is the width."""
    shoulders = transform(ellipse(size * 0.62, size), centre, angle)
    step = transform(ellipse(size * 0.5, size * 0.4), centre + direction(angle) * size * 0.3, angle)
    if not canvas.add_object("person", shoulders, step):
        return False
    clothes = canvas.contrasting_colour(canvas.pick_colour(_CLOTHES), centre, 0.25)
    canvas.cast_shadow(transform(ellipse(size * 0.5, size * 0.7), centre, angle), size * 1.7)
    canvas.fill_polygon(step, shade(clothes, 0.7))
    canvas.fill_polygon(shoulders, clothes)
    head = transform(ellipse(size * 0.42, size * 0.42), centre, angle)
    canvas.fill_polygon(head, canvas.pick_colour(_HAIR))
    return True


# ---- wind-mill -----------------------------------------------------------------------------------


def draw_wind_mill(canvas: Canvas, base: np.ndarray, lean: float, size: float) -> bool:
    """Draw a wind turbine seen slightly from the side.

    Args:
        canvas: the canvas.
        base: (2,) foot of the tower.
        lean: direction in which the tower appears to lean; all turbines of a scene share it.
        size: distance from the foot of the tower to the hub in px.

    Returns:
        Whether it was drawn.
    """
    tower = np.array([[0, -0.045], [1, -0.022], [1, 0.022], [0, 0.045]]) * size
    tower[:, 1] = np.sign(tower[:, 1]) * np.maximum(np.abs(tower[:, 1]), 0.6)
    hub = base + direction(lean) * size
    turn = canvas.uniform(0, 2 * np.pi)
    reach, squash = size * canvas.uniform(0.52, 0.62), canvas.uniform(0.7, 1.0)
    root, tip = max(0.075 * size, 1.3), max(0.035 * size, 0.8)
    blade = np.array([[0, -root / 2], [0.25 * reach, -root * 0.6], [reach, -tip / 2]])
    blade = np.concatenate([blade, [[reach, tip / 2], [0.2 * reach, root * 0.5]]])
    blades = []
    for k in range(3):
        flat = transform(blade, np.zeros(2), turn + k * 2 * np.pi / 3)
        blades.append(transform(flat * (squash, 1), hub, lean))
    mast = transform(tower, base, lean)
    if not canvas.add_object("wind-mill", mast, *blades):
        return False
    # The shadow of the mast starts at its foot and has a rotor too.
    slope = 1.3 * canvas.shadow_slope
    head = canvas.sun * size * slope
    along = float(np.arctan2(canvas.sun[1], canvas.sun[0]))
    canvas.cast_shadow(transform(tower * (slope, 1.0), base, along), 0.0, convex=False)
    for k in range(3):
        flat = transform(blade, np.zeros(2), turn + k * 2 * np.pi / 3)
        canvas.cast_shadow(transform(flat * (0.8, 0.6), base + head, along), 0.0, convex=False)
    white = canvas.contrasting_colour((0.95, 0.95, 0.94), base, 0.3)
    canvas.fill_polygon(ellipse(0.22 * size, 0.22 * size) + base, (0.72, 0.70, 0.66), flat=True)
    canvas.fill_polygon(mast, shade(white, 0.88))
    canvas.fill_polygons(blades, white)
    nacelle = transform(ellipse(max(0.11 * size, 1.8), max(0.08 * size, 1.5)), hub, lean)
    canvas.fill_polygon(nacelle, shade(white, 0.9))
    return True


# ---- bridge --------------------------------------------------------------------------------------

_DECK: tuple[Colour, ...] = ((0.62, 0.61, 0.59), (0.54, 0.54, 0.54), (0.70, 0.67, 0.61))


def draw_bridge(canvas: Canvas, centre: np.ndarray, angle: float, length: float, width: float, road: Colour) -> bool:
    """Draw a bridge: a deck of `length` along the road, with railings and its shadow on the water.

    Vehicles may be drawn on it afterwards, so the deck does not occupy its area.
    """
    deck = transform(rectangle(length, width), centre, angle)
    if not canvas.add_object("bridge", deck, solid=False):
        return False
    canvas.cast_shadow(transform(rectangle(length * 0.94, width), centre, angle), max(width * 0.3, 1.5))
    paint = shade(road, 1.1) if canvas.chance(0.5) else canvas.pick_colour(_DECK)
    canvas.fill_polygon(deck, shade(paint, 1.35))
    canvas.fill_polygon(transform(rectangle(length, max(width - 1.6, width * 0.6)), centre, angle), paint)
    if width > 7:
        for x in np.arange(-length / 2 + 1.5, length / 2 - 1.5, 4.0).tolist():
            dash = transform(rectangle(2.0, 0.45, x + 1.0), centre, angle)
            canvas.fill_polygon(dash, (0.88, 0.87, 0.82))
    return True
