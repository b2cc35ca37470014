"""General neural-network layers, independent of detection."""

from d2tiny.layers.attention import C2PSA
from d2tiny.layers.conv import ConvBN, DilatedDepthwise, yolo_norm
from d2tiny.layers.csp import SPP, C3k2, CSPLayer, Focus
from d2tiny.layers.deform_conv import deform_conv2d
from d2tiny.layers.sac import ConvAWS2d, SAConv2d

__all__ = [
    "C2PSA",
    "SPP",
    "C3k2",
    "CSPLayer",
    "ConvAWS2d",
    "ConvBN",
    "DilatedDepthwise",
    "Focus",
    "SAConv2d",
    "deform_conv2d",
    "yolo_norm",
]
