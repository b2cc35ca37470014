"""nn.Modules that know nothing about detection."""

from d2tiny.layers.deform_conv import deform_conv2d
from d2tiny.layers.sac import ConvAWS2d, SAConv2d

__all__ = ["ConvAWS2d", "SAConv2d", "deform_conv2d"]
