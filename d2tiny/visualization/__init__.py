"""Drawing of boxes, maps and HTML reports."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from d2tiny.visualization.cells import QUERY_COLOR, blend_cells, draw_density
    from d2tiny.visualization.draw import Boxes2D, class_color, draw_boxes, side_by_side

_NAMES = {
    "cells": ["QUERY_COLOR", "blend_cells", "draw_density"],
    "draw": ["Boxes2D", "class_color", "draw_boxes", "side_by_side"],
}
__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs=_NAMES)
__all__ = ["QUERY_COLOR", "Boxes2D", "blend_cells", "class_color", "draw_boxes", "draw_density", "side_by_side"]
