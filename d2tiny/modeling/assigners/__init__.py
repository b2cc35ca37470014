"""Dense label assignment: who is positive."""

from d2tiny.modeling.assigners.base import Assigner, AssignResult
from d2tiny.modeling.assigners.hla import HLAAssigner
from d2tiny.modeling.assigners.max_iou import MaxIoUAssigner

__all__ = ["AssignResult", "Assigner", "HLAAssigner", "MaxIoUAssigner"]
