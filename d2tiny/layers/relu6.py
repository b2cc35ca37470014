"""ReLU6 that keeps its result for the backward pass, and not its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from d2tiny.utils.tracing import is_traced

__all__ = ["keep_results_of_relu6"]


class _ReLU6OfResult(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.clamp_(0, 6)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # The gradient is 0 where the input was at a bound or beyond it, which is where the result is at a bound.
        (result,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, result, 0.0, 6.0)


class _ReLU6(nn.ReLU6):
    """An in-place ``nn.ReLU6``, of which PyTorch would copy the input.

    Its result may not be changed in place before the backward pass, and has no second derivatives.
    """

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is not Tensor or is_traced() or not (torch.is_grad_enabled() and x.requires_grad):
            return super().forward(x)
        out: Tensor = _ReLU6OfResult.apply(x)
        return out


def keep_results_of_relu6(module: nn.Module) -> int:
    """Let all in-place ``nn.ReLU6`` of a module keep their results for the backward pass, by another class.

    PyTorch keeps a copy of the input, whose gradient the result determines as well: the copies are as large as all
    activations of EfficientNet-Lite together, and take a twentieth of a training step on a processor.

    Returns:
        The number of layers.
    """
    found = [m for m in module.modules() if type(m) in (nn.ReLU6, _ReLU6) and m.inplace]
    for layer in found:
        layer.__class__ = _ReLU6
    return len(found)
