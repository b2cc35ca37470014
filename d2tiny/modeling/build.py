"""The registry boundary: from a yacs config to assigners, losses and backbones with necks."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone

from d2tiny.modeling.assigners import Assigner, HLAAssigner, MaxIoUAssigner, RKAAssigner
from d2tiny.modeling.losses import BoxLoss, DCLoss, IoULoss, NWDLoss, SALoss, SmoothL1Loss
from d2tiny.modeling.losses.iou import IOU_LOSSES
from d2tiny.modeling.necks import EFPNBS, NeckedBackbone
from d2tiny.utils.errors import ConfigError, did_you_mean
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["build_box_loss", "build_resnet_efpnbs_backbone", "build_rpn_assigner"]

_BOX_LOSSES = ("smooth_l1", *IOU_LOSSES, "dcloss", "sal", "nwd")


def build_rpn_assigner(cfg: CfgNode) -> Assigner:
    """Build ``MODEL.RPN.ASSIGNER``.

    Raises:
        ConfigError: unknown name; says which exist.
    """
    name = cfg.MODEL.RPN.ASSIGNER
    ignore = cfg.MODEL.RPN.IGNORE_IOF_THRESH
    cls = ASSIGNER_REGISTRY.get(name)
    if cls is HLAAssigner:
        rfla = cfg.MODEL.RFLA
        return HLAAssigner(metric=rfla.METRIC, topk=rfla.TOPK, ratio=rfla.RATIO, ignore_iof_thresh=ignore)
    if cls is MaxIoUAssigner:
        neg, pos = cfg.MODEL.RPN.IOU_THRESHOLDS
        nwd = cfg.MODEL.RPN.ASSIGN_METRIC in ("nwd", "dotd")
        return MaxIoUAssigner(
            pos_iou=pos,
            neg_iou=neg,
            metric=cfg.MODEL.RPN.ASSIGN_METRIC,
            constant=cfg.MODEL.NWD.CONSTANT if nwd else None,
            min_quality=neg if nwd else 0.0,
            ignore_iof_thresh=ignore,
        )
    if cls is RKAAssigner:
        constant = cfg.MODEL.NWD.CONSTANT
        return RKAAssigner(topk=cfg.MODEL.NWD.RKA_TOPK, constant=constant, ignore_iof_thresh=ignore)
    return cls(ignore_iof_thresh=ignore)


def build_box_loss(cfg: CfgNode, kind: str, beta: float, key: str) -> BoxLoss:
    """Build the loss named by a ``BBOX_REG_LOSS_TYPE``.

    Args:
        cfg: the whole config.
        kind: the value of the key.
        beta: β of smooth L1.
        key: the config key, for the error message.

    Raises:
        ConfigError: unknown name; says which exist.
    """
    if kind == "dcloss":
        dc = cfg.MODEL.DCLOSS
        return DCLoss(k=dc.K, delta=dc.DELTA, mode=dc.MODE, learnable=dc.LEARNABLE)
    if kind == "sal":
        sal = cfg.MODEL.SAL
        return SALoss(base=sal.BASE, beta=sal.BETA, stat_mode=sal.STAT_MODE, l1_weight=sal.L1_WEIGHT)
    if kind == "nwd":
        return NWDLoss(constant=cfg.MODEL.NWD.CONSTANT)
    if kind == "smooth_l1":
        return SmoothL1Loss(beta=beta)
    if kind in IOU_LOSSES:
        return IoULoss(kind=kind)
    raise ConfigError(f"{key}: unknown box loss '{kind}'. {did_you_mean(kind, _BOX_LOSSES)}")


@BACKBONE_REGISTRY.register()
def build_resnet_efpnbs_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> NeckedBackbone:
    """Build ``MODEL.RESNETS`` + ``MODEL.FPN`` + ``MODEL.EFPNBS``; the pyramid is p2..p6 as from FPN alone."""
    node = cfg.MODEL.EFPNBS
    neck = EFPNBS(
        channels=cfg.MODEL.FPN.OUT_CHANNELS,
        pairs=node.PAIRS,
        cem=node.CEM,
        fbsm=node.FBSM,
        mid_channels=node.MID_CHANNELS,
        gate_channels=node.GATE_CHANNELS,
        residual=node.RESIDUAL,
    )
    return NeckedBackbone(backbone=build_resnet_fpn_backbone(cfg, input_shape), neck=neck)
