"""Priors: anchors, points and receptive fields on the grids of the feature maps."""

from d2tiny.modeling.priors.anchors import grid_from_generator
from d2tiny.modeling.priors.grid import GridLevel, GridPriors
from d2tiny.modeling.priors.receptive_field import RFAnchorGenerator, receptive_fields

__all__ = [
    "GridLevel",
    "GridPriors",
    "RFAnchorGenerator",
    "grid_from_generator",
    "receptive_fields",
]
