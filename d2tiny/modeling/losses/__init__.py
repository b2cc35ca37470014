"""Box losses, with one interface for RPN, ROI heads and dense heads."""

from d2tiny.modeling.losses.base import BoxLoss, reduce_loss, regression_loss
from d2tiny.modeling.losses.dcloss import DCLoss, dc_loss, dc_loss_slope
from d2tiny.modeling.losses.dfl import dfl_loss
from d2tiny.modeling.losses.iou import IoULoss, iou_loss
from d2tiny.modeling.losses.nwd import NWDLoss, nwd_loss
from d2tiny.modeling.losses.sal import SALoss, sal_weight
from d2tiny.modeling.losses.smooth_l1 import SmoothL1Loss

__all__ = [
    "BoxLoss",
    "DCLoss",
    "IoULoss",
    "NWDLoss",
    "SALoss",
    "SmoothL1Loss",
    "dc_loss",
    "dc_loss_slope",
    "dfl_loss",
    "iou_loss",
    "nwd_loss",
    "reduce_loss",
    "regression_loss",
    "sal_weight",
]
