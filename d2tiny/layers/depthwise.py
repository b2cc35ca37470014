"""Depth-wise convolutions under autocast on processors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from d2tiny.layers.depthwise_conv import depthwise_conv2d
from d2tiny.utils.precision import without_autocast

__all__ = ["conv_forward", "float32_layers", "is_float32_layer", "keep_depthwise_float32"]


class _Float32OnCPU(nn.Conv2d):
    """A convolution that autocast leaves in float32 on the CPU."""

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x, *args)
        with without_autocast(x.device):
            return super().forward(x.float(), *args)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return depthwise_conv2d(x, weight, bias, self)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copy and pickle it by the class that it was made of: its own class has no name to be found by."""
        return _blank, (type(self).__mro__[2],), self.__dict__


_CLASSES: dict[type[nn.Conv2d], type[nn.Conv2d]] = {}


def _float32_class(cls: type[nn.Conv2d]) -> type[nn.Conv2d]:
    if cls not in _CLASSES:
        _CLASSES[cls] = type(f"Float32{cls.__name__}", (_Float32OnCPU, cls), {})
    return _CLASSES[cls]


def _blank(cls: type[nn.Conv2d]) -> nn.Conv2d:
    """Return a convolution without its state."""
    float32 = _float32_class(cls)
    return float32.__new__(float32)


def keep_depthwise_float32(module: nn.Module) -> int:
    """Let all depth-wise convolutions of a module compute in float32 on the CPU, in place.

    PyTorch has no fast bfloat16 kernel for them on processors: eight crops of 160 px through EfficientNet-Lite0,
    forward and backward, take 0.19 s in float32, 0.30 s in bfloat16 and 0.14 s with only these layers in float32
    (one thread of a processor with AVX512-BF16). Names and values of parameters do not change.

    Returns:
        The number of depth-wise convolutions.
    """
    found = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1]
    for conv in found:
        if not isinstance(conv, _Float32OnCPU):
            conv.__class__ = _float32_class(type(conv))
    return len(found)


def is_float32_layer(module: nn.Module) -> bool:
    """Return whether :func:`keep_depthwise_float32` changed a layer."""
    return isinstance(module, _Float32OnCPU)


def conv_forward(conv: nn.Conv2d) -> Callable[..., Tensor]:
    """Return the ``forward`` of a layer's class, below what :func:`keep_depthwise_float32` adds."""
    cls: Any = type(conv).__mro__[2] if is_float32_layer(conv) else type(conv)
    forward: Callable[..., Tensor] = cls.forward
    return forward


def float32_layers(module: nn.Module) -> int:
    """Return how many layers of a module :func:`keep_depthwise_float32` changed."""
    return sum(is_float32_layer(part) for part in module.modules())
