"""Convolutions and matrix products of inference on x86 processors, by oneDNN.

With one thread PyTorch computes 1×1 convolutions and linear layers by MKL, which uses half of the vector width on
processors of AMD: 52 instead of 120 billion multiply-adds a second on one core of an EPYC (Zen 4). oneDNN, which is
part of PyTorch, is as fast as the processor. Results are the same up to the rounding of sums.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers.depthwise_conv import depthwise_conv2d
from d2tiny.utils.tracing import is_traced

__all__ = ["conv2d", "is_plain_inference", "linear"]

_LEAST_PRODUCTS = 1 << 18  # multiply-adds under which a call of oneDNN costs more than it saves


def is_plain_inference(x: Tensor) -> bool:
    """Return whether a layer may compute in its own way: without gradients, not while a graph is recorded."""
    return type(x) is Tensor and not (is_traced() or x.is_meta or torch.is_grad_enabled())


@functools.cache
def _has_onednn() -> bool:
    """Return whether PyTorch was built with oneDNN for this x86 processor, with the operators that are used here."""
    x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return x86 and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _usable(x: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN computes this: in float32, on this processor."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and _has_onednn()
        and bool(torch.backends.mkldnn.enabled)
    )


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, conv: nn.Conv2d) -> Tensor:
    """Convolve (B, C, H, W) with other weights than those of ``conv``, whose other settings are taken."""
    if conv.groups == conv.in_channels > 1 and max(conv.dilation) > 1:  # oneDNN is slow there
        return depthwise_conv2d(x, weight, bias, conv)
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str) or not _usable(x, weight):
        return conv._conv_forward(x, weight, bias)
    out: Tensor = torch.mkldnn_convolution(x, weight, bias, conv.padding, conv.stride, conv.dilation, conv.groups)
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute ``x · weightᵀ + bias`` of (…, in) and (out, in), as ``torch.nn.functional.linear``."""
    if not _usable(x, weight) or x.numel() * len(weight) < _LEAST_PRODUCTS:
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return out.view(*x.shape[:-1], len(weight))
