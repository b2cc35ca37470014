"""Builders of assigners, losses and backbones with necks from a yacs config (Detectron2's YAML)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, build_resnet_fpn_backbone
from torch import nn

from d2tiny.layers.folding import prepare_for_inference
from d2tiny.modeling.assigners import Assigner, HLAAssigner, MaxIoUAssigner, RKAAssigner
from d2tiny.modeling.backbone import RFP, DetectoRSResNet, TimmBackbone
from d2tiny.modeling.contracts import Backbone
from d2tiny.modeling.losses import BoxLoss, DCLoss, IoULoss, NWDLoss, SALoss, SmoothL1Loss
from d2tiny.modeling.losses.iou import IOU_LOSSES
from d2tiny.modeling.necks import EFPNBS, SARL, NeckedBackbone
from d2tiny.utils.errors import ConfigError, did_you_mean
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = [
    "build_box_loss",
    "build_detectors_efpnbs_backbone",
    "build_detectors_rfp_backbone",
    "build_resnet_efpnbs_backbone",
    "build_resnet_sarl_fpn_backbone",
    "build_rpn_assigner",
    "build_timm_backbone",
    "build_timm_efpnbs_backbone",
    "build_timm_fpn_backbone",
    "build_timm_sarl_fpn_backbone",
]

logger = logging.getLogger(__name__)

_BackboneT = TypeVar("_BackboneT", bound=nn.Module)
_BOX_LOSSES = ("smooth_l1", *IOU_LOSSES, "dcloss", "sal", "nwd")


def build_rpn_assigner(cfg: CfgNode) -> Assigner:
    """Build ``MODEL.RPN.ASSIGNER``.

    Raises:
        ConfigError: unknown name; the message lists the known ones.
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
        cfg: the config.
        kind: the value of the key.
        beta: β of smooth L1.
        key: the config key that names it; those of box heads begin with ``MODEL.ROI_``.

    Raises:
        ConfigError: unknown name; the message lists the known ones.
    """
    if kind == "dcloss":
        dc, heads = cfg.MODEL.DCLOSS, key.startswith("MODEL.ROI_")
        delta, unit = (dc.ROI_DELTA or dc.DELTA, dc.ROI_UNIT) if heads else (dc.DELTA, 1.0)
        return DCLoss(k=dc.K, delta=delta, mode=dc.MODE, learnable=dc.LEARNABLE, unit=unit)
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


def _prepared(backbone: _BackboneT) -> _BackboneT:
    prepare_for_inference(backbone)  # Detectron2's meta architectures do not
    return backbone


def _with_efpnbs(cfg: CfgNode, backbone: Backbone) -> NeckedBackbone:
    node = cfg.MODEL.EFPNBS
    if node.MASK_LOSS_WEIGHT and cfg.MODEL.META_ARCHITECTURE != "TinyGeneralizedRCNN":
        raise ConfigError(
            f"MODEL.EFPNBS.MASK_LOSS_WEIGHT: {cfg.MODEL.META_ARCHITECTURE} never asks for this loss; write "
            "MODEL.META_ARCHITECTURE: TinyGeneralizedRCNN."
        )
    neck = EFPNBS(
        channels=cfg.MODEL.FPN.OUT_CHANNELS,
        pairs=node.PAIRS,
        cem=node.CEM,
        fbsm=node.FBSM,
        mid_channels=node.MID_CHANNELS,
        gate_channels=node.GATE_CHANNELS,
        residual=node.RESIDUAL,
        light=node.LIGHT,
        mask_loss_weight=node.MASK_LOSS_WEIGHT,
    )
    return _prepared(NeckedBackbone(backbone=backbone, neck=neck))


@BACKBONE_REGISTRY.register()
def build_resnet_efpnbs_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> NeckedBackbone:
    """Build ``MODEL.RESNETS``, ``MODEL.FPN`` and ``MODEL.EFPNBS``; the levels are p2 to p6 as with FPN alone."""
    return _with_efpnbs(cfg, build_resnet_fpn_backbone(cfg, input_shape))


def _fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    fpn = cfg.MODEL.FPN
    return FPN(
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=fpn.FUSE_TYPE,
    )


def _sarl_fpn(cfg: CfgNode, body: Backbone) -> FPN:
    node, levels = cfg.MODEL.SARL, list(cfg.MODEL.FPN.IN_FEATURES)
    sarl = SARL(
        in_channels=[body.output_shape()[name].channels for name in levels],
        in_features=levels,
        norm=node.NORM,
        use_channel=node.USE_CHANNEL,
        use_spatial=node.USE_SPATIAL,
        top_down=node.TOP_DOWN,
    )
    return _prepared(_fpn(cfg, NeckedBackbone(backbone=body, neck=sarl)))


@BACKBONE_REGISTRY.register()
def build_resnet_sarl_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build ``MODEL.RESNETS``, ``MODEL.SARL`` and ``MODEL.FPN``."""
    return _sarl_fpn(cfg, build_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_detectors_rfp_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> RFP:
    """Build the ResNets of DetectoRS (``MODEL.RESNETS``, ``MODEL.DETECTORS``) and the recursive ``MODEL.FPN``."""
    node, channels, share = cfg.MODEL.DETECTORS, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.DETECTORS.SHARE_BACKBONE

    def resnet(feedback_channels: int, prefix: str) -> DetectoRSResNet:
        return DetectoRSResNet(
            depth=cfg.MODEL.RESNETS.DEPTH,
            norm=cfg.MODEL.RESNETS.NORM,
            sac=node.SAC,
            feedback_channels=feedback_channels,
            out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
            stride_in_1x1=cfg.MODEL.RESNETS.STRIDE_IN_1X1,
            prefix=prefix,
        )

    first = resnet(channels if share else 0, "")
    second = None if share else resnet(channels, "rfp_")
    return _prepared(RFP(fpn=_fpn(cfg, first), second=second, steps=node.RFP_STEPS))


@BACKBONE_REGISTRY.register()
def build_detectors_efpnbs_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> NeckedBackbone:
    """Build the backbone of DetectoRS followed by ``MODEL.EFPNBS``."""
    return _with_efpnbs(cfg, build_detectors_rfp_backbone(cfg, input_shape))


def _timm(cfg: CfgNode, out_features: Sequence[str]) -> TimmBackbone:
    node = cfg.MODEL.TIMM
    body = TimmBackbone(
        node.NAME,
        out_features=out_features,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        norm=node.NORM,
        drop_path_rate=node.DROP_PATH_RATE,
        out_norm=node.OUT_NORM,
    )
    # Detectron2's default is that of its own ResNets in BGR; a lazy config reads the backbone's instead.
    for key, own in (("PIXEL_MEAN", body.pixel_mean), ("PIXEL_STD", body.pixel_std)):
        right = [round(value, 3) for value in (own[::-1] if cfg.INPUT.FORMAT == "BGR" else own)]
        if not np.allclose(cfg.MODEL[key], right, atol=0.01):
            logger.warning(
                "MODEL.%s is %s, but timm's weights of %s were trained with %s (INPUT.FORMAT %s). "
                "Set it, unless your weights are others.",
                key, list(cfg.MODEL[key]), node.NAME, right, cfg.INPUT.FORMAT,
            )  # fmt: skip
    return body


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build ``MODEL.TIMM`` with the stages ``MODEL.TIMM.OUT_FEATURES``."""
    return _timm(cfg, cfg.MODEL.TIMM.OUT_FEATURES)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build ``MODEL.TIMM`` with the stages ``MODEL.FPN.IN_FEATURES``, and ``MODEL.FPN``."""
    return _fpn(cfg, _timm(cfg, cfg.MODEL.FPN.IN_FEATURES))


@BACKBONE_REGISTRY.register()
def build_timm_efpnbs_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> NeckedBackbone:
    """Build the same followed by ``MODEL.EFPNBS``."""
    return _with_efpnbs(cfg, build_timm_fpn_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_timm_sarl_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build ``MODEL.TIMM`` with the stages ``MODEL.FPN.IN_FEATURES``, ``MODEL.SARL`` and ``MODEL.FPN``."""
    return _sarl_fpn(cfg, _timm(cfg, cfg.MODEL.FPN.IN_FEATURES))
