"""All parts of detectors. Importing this registers them with Detectron2."""

from d2tiny.modeling.assigners import (
    ATSSAssigner,
    FCOSAssigner,
    HLAAssigner,
    HungarianMatcher,
    MaxIoUAssigner,
    RatioAssigner,
    RKAAssigner,
    SimOTAAssigner,
    TALAssigner,
)
from d2tiny.modeling.backbone import RFP, CSPDarknet, DetectoRSResNet, TimmBackbone, YOLO11Backbone
from d2tiny.modeling.build import build_resnet_efpnbs_backbone
from d2tiny.modeling.dense_heads import TinyDenseHead, YOLO11Head, YOLOv5Head, YOLOXHead
from d2tiny.modeling.losses import DCLoss, IoULoss, NWDLoss, SALoss, SmoothL1Loss
from d2tiny.modeling.meta_arch import AuxiliaryBranch, LazyModel, TinyDenseDetector, TinyDINO, check_predictor_input
from d2tiny.modeling.necks import ARB, EFPNBS, MDCA, PAFPN, PFDH, SARL, ChannelMapper, NeckedBackbone
from d2tiny.modeling.priors import GridPriors, RFAnchorGenerator
from d2tiny.modeling.proposal_generator import TinyRPN
from d2tiny.modeling.roi_heads import TinyCascadeROIHeads, TinyFastRCNNOutputLayers, TinyStandardROIHeads
from d2tiny.modeling.transformer import (
    REM,
    DeformableEncoder,
    Denoising,
    DensityQueries,
    DINOCriterion,
    DINODecoder,
    QuerySelection,
)

__all__ = [
    "ARB",
    "EFPNBS",
    "MDCA",
    "PAFPN",
    "PFDH",
    "REM",
    "RFP",
    "SARL",
    "ATSSAssigner",
    "AuxiliaryBranch",
    "CSPDarknet",
    "ChannelMapper",
    "DCLoss",
    "DINOCriterion",
    "DINODecoder",
    "DeformableEncoder",
    "Denoising",
    "DensityQueries",
    "DetectoRSResNet",
    "FCOSAssigner",
    "GridPriors",
    "HLAAssigner",
    "HungarianMatcher",
    "IoULoss",
    "LazyModel",
    "MaxIoUAssigner",
    "NWDLoss",
    "NeckedBackbone",
    "QuerySelection",
    "RFAnchorGenerator",
    "RKAAssigner",
    "RatioAssigner",
    "SALoss",
    "SimOTAAssigner",
    "SmoothL1Loss",
    "TALAssigner",
    "TimmBackbone",
    "TinyCascadeROIHeads",
    "TinyDINO",
    "TinyDenseDetector",
    "TinyDenseHead",
    "TinyFastRCNNOutputLayers",
    "TinyRPN",
    "TinyStandardROIHeads",
    "YOLO11Backbone",
    "YOLO11Head",
    "YOLOXHead",
    "YOLOv5Head",
    "build_resnet_efpnbs_backbone",
    "check_predictor_input",
]
