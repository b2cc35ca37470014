"""Backbones: they map images to feature maps."""

from d2tiny.modeling.backbone.csp_darknet import CSPDarknet
from d2tiny.modeling.backbone.detectors_resnet import DetectoRSResNet
from d2tiny.modeling.backbone.rfp import ASPP, RFP
from d2tiny.modeling.backbone.yolo11 import YOLO11Backbone

__all__ = ["ASPP", "RFP", "CSPDarknet", "DetectoRSResNet", "YOLO11Backbone"]
