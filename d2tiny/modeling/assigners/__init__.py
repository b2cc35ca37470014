"""Label assigners: which priors are positive for which object."""

from d2tiny.modeling.assigners.atss import ATSSAssigner
from d2tiny.modeling.assigners.base import Assigner, AssignResult, Predictions
from d2tiny.modeling.assigners.fcos import FCOSAssigner
from d2tiny.modeling.assigners.hla import HLAAssigner
from d2tiny.modeling.assigners.hungarian import HungarianMatcher
from d2tiny.modeling.assigners.max_iou import MaxIoUAssigner
from d2tiny.modeling.assigners.ratio import RatioAssigner
from d2tiny.modeling.assigners.rka import RKAAssigner
from d2tiny.modeling.assigners.simota import SimOTAAssigner
from d2tiny.modeling.assigners.tal import TALAssigner

__all__ = [
    "ATSSAssigner",
    "AssignResult",
    "Assigner",
    "FCOSAssigner",
    "HLAAssigner",
    "HungarianMatcher",
    "MaxIoUAssigner",
    "Predictions",
    "RKAAssigner",
    "RatioAssigner",
    "SimOTAAssigner",
    "TALAssigner",
]
