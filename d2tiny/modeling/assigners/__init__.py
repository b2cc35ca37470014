"""Who is positive: label assigners for dense priors."""

from d2tiny.modeling.assigners.atss import ATSSAssigner
from d2tiny.modeling.assigners.base import Assigner, AssignResult
from d2tiny.modeling.assigners.fcos import FCOSAssigner
from d2tiny.modeling.assigners.hla import HLAAssigner
from d2tiny.modeling.assigners.max_iou import MaxIoUAssigner
from d2tiny.modeling.assigners.rka import RKAAssigner

__all__ = [
    "ATSSAssigner",
    "AssignResult",
    "Assigner",
    "FCOSAssigner",
    "HLAAssigner",
    "MaxIoUAssigner",
    "RKAAssigner",
]
