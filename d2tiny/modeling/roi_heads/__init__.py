"""Second-stage heads."""

from d2tiny.modeling.roi_heads.fast_rcnn import TinyFastRCNNOutputLayers, select_detections
from d2tiny.modeling.roi_heads.standard import TinyStandardROIHeads

__all__ = ["TinyFastRCNNOutputLayers", "TinyStandardROIHeads", "select_detections"]
