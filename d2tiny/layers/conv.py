"""Convolutions: with batch normalisation and SiLU as in the YOLO family, and dilated depth-wise ones."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from d2tiny.utils.precision import without_autocast
from d2tiny.utils.tracing import is_traced

__all__ = ["ConvBN", "DilatedDepthwise", "yolo_norm"]


def yolo_norm(channels: int) -> nn.BatchNorm2d:
    """Return batch normalisation with the settings of all YOLO models: ε = 10⁻³, momentum 0.03."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


class ConvBN(Conv2d):
    """Convolution without bias, batch normalisation (ε = 10⁻³, momentum 0.03) and an activation, SiLU by default.

    In evaluation mode without gradients the normalisation is folded into the convolution. The folded weights are cached
    until the module trains, loads a state dict, or a weight or statistic is modified in place; they are not part of the
    state dict. After modifications that PyTorch does not track (``weight.data``), call ``train`` or ``eval``.
    """

    norm: nn.BatchNorm2d
    _folded: tuple[Any, Tensor, Tensor] | None = None

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

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        if self.training:
            self._folded = (
                None  # fused optimizers and running statistics change tensors without increasing their version
            )
        traced = is_traced() or x.is_meta
        if self.training or torch.is_grad_enabled() or traced:
            return super().forward(x)
        weight, bias = self._folded_weights(x)
        x = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)

    def _folded_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        norm, kind = self.norm, x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.weight.dtype
        parts = [p for p in (self.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var) if p is not None]
        versioned = not any(p.is_inference() for p in parts)
        key = (dtype, norm.eps, *((p.data_ptr(), p._version) for p in parts)) if versioned else None
        if key is None or self._folded is None or self._folded[0] != key:
            mean, var = norm.running_mean, norm.running_var
            assert mean is not None and var is not None
            weight, bias = fuse_conv_bn_weights(self.weight, None, mean, var, norm.eps, norm.weight, norm.bias)
            self._folded = (key, weight.detach().to(dtype), bias.detach().to(dtype))
        return self._folded[1], self._folded[2]

    def train(self, mode: bool = True) -> ConvBN:
        """Set training or evaluation mode and drop the folded weights."""
        self._folded = None
        super().train(mode)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._folded = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the folded weights out of copies and pickles."""
        return {k: v for k, v in self.__dict__.items() if k != "_folded"}


class DilatedDepthwise(nn.Conv2d):
    """Dilated depth-wise convolution that keeps the spatial size; on the CPU always computed in float32.

    On the CPU, PyTorch's bfloat16 weight gradient of a depth-wise convolution with dilation, 128 or more channels and
    ``channels_last`` contains uninitialised memory (observed in PyTorch 2.14: NaN in every call).
    """

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
