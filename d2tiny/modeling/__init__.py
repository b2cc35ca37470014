"""All parts of detectors. Importing this registers them with Detectron2."""

from d2tiny.modeling.assigners import HLAAssigner, MaxIoUAssigner
from d2tiny.modeling.build import build_resnet_efpnbs_backbone
from d2tiny.modeling.losses import DCLoss, IoULoss, SmoothL1Loss
from d2tiny.modeling.meta_arch import LazyModel
from d2tiny.modeling.necks import EFPNBS, NeckedBackbone
from d2tiny.modeling.priors import GridPriors, RFAnchorGenerator
from d2tiny.modeling.proposal_generator import TinyRPN
from d2tiny.modeling.roi_heads import TinyFastRCNNOutputLayers, TinyStandardROIHeads

__all__ = [
    "EFPNBS",
    "DCLoss",
    "GridPriors",
    "HLAAssigner",
    "IoULoss",
    "LazyModel",
    "MaxIoUAssigner",
    "NeckedBackbone",
    "RFAnchorGenerator",
    "SmoothL1Loss",
    "TinyFastRCNNOutputLayers",
    "TinyRPN",
    "TinyStandardROIHeads",
    "build_resnet_efpnbs_backbone",
]
