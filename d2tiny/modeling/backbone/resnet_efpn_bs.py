"""Registry entry: ResNet-FPN with E-FPN-BS behind it."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone

from d2tiny.modeling.necks import EFPNBS, NeckedBackbone

__all__ = ["build_resnet_efpnbs_backbone"]


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
