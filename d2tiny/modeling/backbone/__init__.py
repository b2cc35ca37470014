"""Networks that turn an image into features."""

from d2tiny.modeling.backbone.detectors_resnet import DetectoRSResNet
from d2tiny.modeling.backbone.rfp import ASPP, RFP

__all__ = ["ASPP", "RFP", "DetectoRSResNet"]
