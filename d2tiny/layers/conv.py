"""Convolutions: those of the YOLO family with batch normalisation and SiLU, and dilated depth-wise ones."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from d2tiny.utils.precision import without_autocast

__all__ = ["ConvBN", "DilatedDepthwise", "yolo_norm"]


def yolo_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation as all YOLO models have it: ε 10⁻³, momentum 0.03."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


class ConvBN(Conv2d):
    """Convolution without bias, batch normalisation (ε 10⁻³, momentum 0.03), and SiLU unless switched off.

    In evaluation without gradients the normalisation is folded into the convolution. The folded weights are kept until
    the module trains, loads a state, or a weight or statistic is changed in place; state dicts never hold them. Changes
    that PyTorch does not count (``weight.data``) need a call of ``train`` or ``eval`` behind them.
    """

    norm: nn.BatchNorm2d
    _folded: tuple[Any, Tensor, Tensor] | None = None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        activation: nn.Module | None = None,
        active: bool = True,
    ) -> None:
        """Set the shape.

        Args:
            inputs: channels in.
            outputs: channels out.
            kernel: side in cells.
            stride: of the convolution.
            padding: in cells; None takes ``kernel // 2``.
            groups: of channels.
            activation: None takes SiLU.
            active: False leaves the activation out.
        """
        super().__init__(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=kernel // 2 if padding is None else padding,
            groups=groups,
            bias=False,
            norm=yolo_norm(outputs),
            activation=(activation or nn.SiLU(inplace=True)) if active else None,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        if self.training:
            self._folded = None  # fused optimizers and running statistics change tensors without being counted
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or x.is_meta
        if self.training or torch.is_grad_enabled() or traced:
            return super().forward(x)
        weight, bias = self._folded_weights(x)
        x = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)

    def _folded_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        norm, kind = self.norm, x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.weight.dtype
        parts = [p for p in (self.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var) if p is not None]
        counted = not any(p.is_inference() for p in parts)
        key = (dtype, norm.eps, *((p.data_ptr(), p._version) for p in parts)) if counted else None
        if key is None or self._folded is None or self._folded[0] != key:
            mean, var = norm.running_mean, norm.running_var
            assert mean is not None and var is not None
            weight, bias = fuse_conv_bn_weights(self.weight, None, mean, var, norm.eps, norm.weight, norm.bias)
            self._folded = (key, weight.detach().to(dtype), bias.detach().to(dtype))
        return self._folded[1], self._folded[2]

    def train(self, mode: bool = True) -> ConvBN:
        """Set the mode, and forget folded weights."""
        self._folded = None
        super().train(mode)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._folded = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Copies fold their own weights."""
        return {k: v for k, v in self.__dict__.items() if k != "_folded"}


class DilatedDepthwise(nn.Conv2d):
    """Depth-wise convolution of the same size; on processors always in float32.

    There PyTorch's bfloat16 gradient of the weights holds memory that nobody wrote when such a convolution has a
    dilation, 128 or more channels and ``channels_last`` (seen in 2.14: NaN in every call).
    """

    def __init__(self, channels: int, kernel: int, dilation: int, *, bias: bool = True) -> None:
        """Set the shape.

        Args:
            channels: in and out.
            kernel: side in cells, odd.
            dilation: in cells.
            bias: whether there is one.
        """
        padding = dilation * (kernel // 2)
        super().__init__(channels, channels, kernel, padding=padding, dilation=dilation, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape, in the type that a plain convolution would give."""
        half = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if x.device.type != "cpu" or half not in (torch.bfloat16, torch.float16):
            return super().forward(x)
        with without_autocast(x.device):
            bias = None if self.bias is None else self.bias.float()
            return self._conv_forward(x.float(), self.weight.float(), bias).to(half)
