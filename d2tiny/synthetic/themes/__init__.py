"""Themes of scenes: one function per theme, which draws a scene on an empty canvas."""

from __future__ import annotations

from collections.abc import Callable

from d2tiny.synthetic.canvas import Canvas
from d2tiny.synthetic.themes.open_air import beach, plaza, wilderness
from d2tiny.synthetic.themes.sites import airfield, airport, tank_farm, wind_farm
from d2tiny.synthetic.themes.town import downtown, highway, parking, resort, suburb
from d2tiny.synthetic.themes.water import harbour, open_sea, river

Theme = Callable[[Canvas], None]

THEMES: tuple[Theme, ...] = (
    suburb, suburb, suburb, resort, parking, parking, highway, highway, downtown,
    harbour, harbour, open_sea, open_sea, river, river, river,
    airport, airport, airfield, tank_farm, tank_farm, wind_farm, wind_farm,
    beach, plaza, wilderness,
)  # fmt: skip
"""All themes, repeated in proportion to their frequency."""
