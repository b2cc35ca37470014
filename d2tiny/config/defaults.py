"""yacs keys of d2tiny, for native YAML configs and for ``get_cfg``."""

from __future__ import annotations

from detectron2.config import CfgNode

__all__ = ["add_d2tiny_config", "read_key"]


def read_key(cfg: CfgNode, key: str) -> object:
    """Return ``cfg.A.B`` of the dotted key ``A.B``."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def add_d2tiny_config(cfg: CfgNode) -> None:
    """Add d2tiny's keys with their defaults to a Detectron2 config, in place.

    The registry entries ``TinyRPN``, ``TinyStandardROIHeads``, ``TinyCascadeROIHeads``, ``RFAnchorGenerator`` and the
    ``build_*_backbone`` of d2tiny read them; ``D2TINY`` is read by ``LazyModel``.
    """
    cfg.D2TINY = CfgNode()
    # Name in the model zoo or path of a lazy config; META_ARCHITECTURE must be LazyModel.
    cfg.D2TINY.LAZY_CONFIG = ""
    # "key=value" overrides of that config.
    cfg.D2TINY.LAZY_OVERRIDES = []
    # Names of the classes that the weights know; empty where the dataset in DATASETS.TEST names them.
    cfg.D2TINY.CLASSES = []

    # Assigner of TinyRPN: HLAAssigner, RKAAssigner, ATSSAssigner, or MaxIoUAssigner (thresholds from
    # MODEL.RPN.IOU_THRESHOLDS on MODEL.RPN.ASSIGN_METRIC: iou, giou, nwd, dotd).
    cfg.MODEL.RPN.ASSIGNER = "HLAAssigner"
    cfg.MODEL.RPN.ASSIGN_METRIC = "iou"
    # An unmatched anchor with more than this share of its area in an ignore region is not trained.
    cfg.MODEL.RPN.IGNORE_IOF_THRESH = 0.5

    cfg.MODEL.RFLA = CfgNode()
    cfg.MODEL.RFLA.METRIC = "kld"
    cfg.MODEL.RFLA.TOPK = (3, 1)
    cfg.MODEL.RFLA.RATIO = 0.9

    # RFAnchorGenerator: effective / theoretical receptive field.
    cfg.MODEL.ANCHOR_GENERATOR.RF_FRACTION = 0.5

    # BBOX_REG_LOSS_TYPE "dcloss" in MODEL.RPN and MODEL.ROI_BOX_HEAD.
    cfg.MODEL.DCLOSS = CfgNode()
    cfg.MODEL.DCLOSS.K = 10.0
    cfg.MODEL.DCLOSS.DELTA = 0.15
    cfg.MODEL.DCLOSS.ROI_DELTA = 0.0  # of box heads; 0 takes DELTA
    cfg.MODEL.DCLOSS.ROI_UNIT = 1.0  # 10 measures errors of box heads, which encode with 10, in shares of proposals
    cfg.MODEL.DCLOSS.MODE = "prose"
    cfg.MODEL.DCLOSS.LEARNABLE = "none"

    # TinyRPN's NMS of proposals: iou or nwd (then MODEL.RPN.NMS_THRESH 0.85 is usual).
    cfg.MODEL.RPN.NMS_METRIC = "iou"
    # Match proposals in the second stage by NWD instead of IoU.
    cfg.MODEL.ROI_HEADS.MATCH_BY_NWD = False

    # NWD and DotD: about the mean object size in px; BBOX_REG_LOSS_TYPE "nwd"; k of RKAAssigner.
    cfg.MODEL.NWD = CfgNode()
    cfg.MODEL.NWD.CONSTANT = 12.8
    cfg.MODEL.NWD.RKA_TOPK = 2

    # BBOX_REG_LOSS_TYPE "sal"; others are smooth_l1, iou, iou2, giou, diou, ciou.
    cfg.MODEL.SAL = CfgNode()
    cfg.MODEL.SAL.BASE = "iou2"
    cfg.MODEL.SAL.BETA = 2.8853900817779268  # 2 / ln 2
    cfg.MODEL.SAL.STAT_MODE = "batch"
    cfg.MODEL.SAL.L1_WEIGHT = 0.0

    cfg.MODEL.EFPNBS = CfgNode()
    cfg.MODEL.EFPNBS.PAIRS = (("p5", "p2"),)
    cfg.MODEL.EFPNBS.CEM = True
    cfg.MODEL.EFPNBS.FBSM = True
    cfg.MODEL.EFPNBS.MID_CHANNELS = 64
    cfg.MODEL.EFPNBS.GATE_CHANNELS = 1
    cfg.MODEL.EFPNBS.RESIDUAL = False
    cfg.MODEL.EFPNBS.LIGHT = False
    cfg.MODEL.EFPNBS.MASK_LOSS_WEIGHT = 0.0  # above 0 it needs META_ARCHITECTURE TinyGeneralizedRCNN

    # TinyCascadeROIHeads: factors on the losses of the stages; Detectron2's own way is to scale gradients instead.
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS = (1.0, 0.5, 0.25)
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.SCALE_GRADIENT = False

    # build_detectors_{rfp,efpnbs}_backbone: stages with switchable convolutions, looks at the image, one backbone.
    cfg.MODEL.DETECTORS = CfgNode()
    cfg.MODEL.DETECTORS.SAC = (False, True, True, True)
    cfg.MODEL.DETECTORS.RFP_STEPS = 2
    cfg.MODEL.DETECTORS.SHARE_BACKBONE = False

    # build_{resnet,timm}_sarl_fpn_backbone.
    cfg.MODEL.SARL = CfgNode()
    cfg.MODEL.SARL.NORM = "GN"
    cfg.MODEL.SARL.USE_CHANNEL = True
    cfg.MODEL.SARL.USE_SPATIAL = True
    cfg.MODEL.SARL.TOP_DOWN = True

    # build_timm_{,fpn_,efpnbs_,sarl_fpn_}backbone: a model of timm, its first MODEL.BACKBONE.FREEZE_AT stages frozen,
    # and with FrozenBN all batch norms (BN trains them). MODEL.WEIGHTS timm://NAME are its weights.
    cfg.MODEL.TIMM = CfgNode()
    cfg.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    cfg.MODEL.TIMM.OUT_FEATURES = ("res2", "res3", "res4", "res5")
    cfg.MODEL.TIMM.NORM = "FrozenBN"
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0
    cfg.MODEL.TIMM.OUT_NORM = False
