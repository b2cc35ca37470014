"""Backbones: they map images to feature maps."""

from typing import TYPE_CHECKING

from d2tiny.modeling.backbone.csp_darknet import CSPDarknet
from d2tiny.modeling.backbone.detectors_resnet import DetectoRSResNet
from d2tiny.modeling.backbone.rfp import ASPP, RFP
from d2tiny.modeling.backbone.timm_backbone import TimmBackbone
from d2tiny.modeling.backbone.timm_url import TimmHandler
from d2tiny.modeling.backbone.timm_vit import TimmViT
from d2tiny.modeling.backbone.yolo11 import YOLO11Backbone

if TYPE_CHECKING:  # mypy checks here that the backbones fulfil the contract
    from d2tiny.modeling.contracts import Backbone

    _BACKBONES: list[type[Backbone]] = [RFP, CSPDarknet, DetectoRSResNet, TimmBackbone, TimmViT, YOLO11Backbone]

__all__ = ["ASPP", "RFP", "CSPDarknet", "DetectoRSResNet", "TimmBackbone", "TimmHandler", "TimmViT", "YOLO11Backbone"]
