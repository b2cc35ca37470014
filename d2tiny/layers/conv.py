"""Convolutions: with batch normalisation and SiLU as in the YOLO family, and dilated depth-wise ones."""

from __future__ import annotations

from typing import ClassVar

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from d2tiny.layers.depthwise_conv import depthwise_conv2d
from d2tiny.layers.folding import InferenceConv, prepare_for_inference
from d2tiny.utils.precision import without_autocast

__all__ = ["ConvBN", "DilatedDepthwise", "yolo_norm"]


def yolo_norm(channels: int) -> nn.BatchNorm2d:
    """Return batch normalisation with the settings of all YOLO models: ε = 10⁻³, momentum 0.03."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


class ConvBN(Conv2d):
    """Convolution without bias, batch normalisation (ε = 10⁻³, momentum 0.03) and an activation, SiLU by default.

    In evaluation mode without gradients the normalisation is folded into the convolution
    (:mod:`d2tiny.layers.folding`). After modifications that PyTorch does not track (``weight.data``), call ``train`` or
    ``eval``.
    """

    norm: nn.BatchNorm2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        activation: nn.Module | None = None,
        with_activation: bool = True,
    ) -> None:
        """Create the layer.

        Args:
            in_channels: number of input channels.
            out_channels: number of output channels.
            kernel_size: side of the square kernel.
            stride: stride of the convolution.
            padding: zero padding; None uses ``kernel_size // 2``.
            groups: number of groups of channels.
            activation: activation module; None uses SiLU.
            with_activation: False omits the activation.
        """
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2 if padding is None else padding,
            groups=groups,
            bias=False,
            norm=yolo_norm(out_channels),
            activation=(activation or nn.SiLU(inplace=True)) if with_activation else None,
        )
        prepare_for_inference(self)

    def train(self, mode: bool = True) -> ConvBN:
        """Set training or evaluation mode and drop the folded weights."""
        if (folding := self.folding) is not None:
            folding.drop()
        super().train(mode)
        return self

    @property
    def folding(self) -> InferenceConv | None:
        """What computes the layer in evaluation, see :func:`~d2tiny.layers.folding.prepare_for_inference`."""
        return self.__dict__.get("forward")


class DilatedDepthwise(nn.Conv2d):
    """Dilated depth-wise convolution that keeps the spatial size; on the CPU always computed in float32.

    On the CPU, PyTorch's bfloat16 weight gradient of a depth-wise convolution with dilation, 128 or more channels and
    ``channels_last`` contains uninitialised memory (observed in PyTorch 2.14: NaN in every call).

    Attributes:
        plain_without_autocast: without autocast its ``forward`` is that of ``nn.Conv2d``.
    """

    plain_without_autocast: ClassVar[bool] = True

    def __init__(self, channels: int, kernel_size: int, dilation: int, *, bias: bool = True) -> None:
        """Create the layer.

        Args:
            channels: number of input and output channels.
            kernel_size: side of the square kernel, odd.
            dilation: dilation of the kernel.
            bias: whether the convolution has a bias.
        """
        padding = dilation * (kernel_size // 2)
        super().__init__(
            channels, channels, kernel_size, padding=padding, dilation=dilation, groups=channels, bias=bias
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape, in the dtype of an ordinary convolution under autocast."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if x.device.type != "cpu" or dtype not in (torch.bfloat16, torch.float16):
            return super().forward(x)
        with without_autocast(x.device):
            bias = None if self.bias is None else self.bias.float()
            return self._conv_forward(x.float(), self.weight.float(), bias).to(dtype)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return depthwise_conv2d(x, weight, bias, self)
