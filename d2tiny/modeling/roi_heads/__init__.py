"""ROI heads of two-stage detectors."""

from d2tiny.modeling.roi_heads.cascade import TinyCascadeROIHeads
from d2tiny.modeling.roi_heads.fast_rcnn import TinyFastRCNNOutputLayers, select_detections
from d2tiny.modeling.roi_heads.standard import TinyStandardROIHeads

__all__ = ["TinyCascadeROIHeads", "TinyFastRCNNOutputLayers", "TinyStandardROIHeads", "select_detections"]
