"""A small DetectoRS for quick trainings from scratch."""

from ..parts import detectors
from .cascade_rcnn_r18_fpn import model

detectors(model)
