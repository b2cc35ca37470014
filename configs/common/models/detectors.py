"""DetectoRS: Cascade R-CNN on a recursive pyramid of ResNet-50 with switchable atrous convolution (SPEC §9)."""

from ..parts import detectors
from .cascade_rcnn_fpn import model

detectors(model)
