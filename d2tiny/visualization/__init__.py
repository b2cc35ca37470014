"""Drawing of boxes and HTML reports."""

from d2tiny.visualization.draw import Boxes2D, class_color, draw_boxes, side_by_side

__all__ = ["Boxes2D", "class_color", "draw_boxes", "side_by_side"]
