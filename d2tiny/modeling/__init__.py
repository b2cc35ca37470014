"""All parts of detectors. Importing this registers them with Detectron2."""

from d2tiny.modeling.assigners import ATSSAssigner, FCOSAssigner, HLAAssigner, MaxIoUAssigner, RKAAssigner
from d2tiny.modeling.backbone import RFP, DetectoRSResNet
from d2tiny.modeling.build import build_resnet_efpnbs_backbone
from d2tiny.modeling.dense_heads import DenseHead
from d2tiny.modeling.losses import DCLoss, IoULoss, NWDLoss, SALoss, SmoothL1Loss
from d2tiny.modeling.meta_arch import LazyModel, TinyDenseDetector
from d2tiny.modeling.necks import EFPNBS, SARL, NeckedBackbone
from d2tiny.modeling.priors import GridPriors, RFAnchorGenerator
from d2tiny.modeling.proposal_generator import TinyRPN
from d2tiny.modeling.roi_heads import TinyCascadeROIHeads, TinyFastRCNNOutputLayers, TinyStandardROIHeads

__all__ = [
    "EFPNBS",
    "RFP",
    "SARL",
    "ATSSAssigner",
    "DCLoss",
    "DenseHead",
    "DetectoRSResNet",
    "FCOSAssigner",
    "GridPriors",
    "HLAAssigner",
    "IoULoss",
    "LazyModel",
    "MaxIoUAssigner",
    "NWDLoss",
    "NeckedBackbone",
    "RFAnchorGenerator",
    "RKAAssigner",
    "SALoss",
    "SmoothL1Loss",
    "TinyCascadeROIHeads",
    "TinyDenseDetector",
    "TinyFastRCNNOutputLayers",
    "TinyRPN",
    "TinyStandardROIHeads",
    "build_resnet_efpnbs_backbone",
]
