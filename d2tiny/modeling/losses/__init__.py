"""Box losses: one interface for RPN, ROI heads and dense heads."""

from d2tiny.modeling.losses.base import BoxLoss, reduce_loss
from d2tiny.modeling.losses.dcloss import DCLoss, dc_loss, dc_loss_slope
from d2tiny.modeling.losses.iou import IoULoss
from d2tiny.modeling.losses.smooth_l1 import SmoothL1Loss

__all__ = [
    "BoxLoss",
    "DCLoss",
    "IoULoss",
    "SmoothL1Loss",
    "dc_loss",
    "dc_loss_slope",
    "reduce_loss",
]
