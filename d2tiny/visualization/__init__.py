"""Drawing of boxes, maps and HTML reports."""

from d2tiny.visualization.cells import QUERY_COLOR, blend_cells, draw_density
from d2tiny.visualization.draw import Boxes2D, class_color, draw_boxes, side_by_side

__all__ = ["QUERY_COLOR", "Boxes2D", "blend_cells", "class_color", "draw_boxes", "draw_density", "side_by_side"]
