"""Make a model ready for a graph: a copy without what only training or only Python has."""

from __future__ import annotations

import copy
from typing import Any, cast

from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["prepared"]


class _FixedSame(nn.Conv2d):
    """``Conv2dSame`` for maps whose sides the stride divides: its padding then does not depend on the size.

    The general formula, nested as often as there are strides, is beyond the symbolic shapes of ``torch.export``.
    """

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for kernel, stride, dilation in zip(self.kernel_size, self.stride, self.dilation, strict=True):
            total = max((kernel - 1) * dilation + 1 - stride, 0)
            pads = [total // 2, total - total // 2, *pads]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def prepared(model: Any) -> Any:
    """Return a copy of a detector in evaluation mode, without gradients, that a graph can be recorded of."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if hasattr(model, "strip_auxiliary"):
        model.strip_auxiliary()
    for module in model.modules():
        if isinstance(module, Conv2dSame):
            cast(Any, module).__class__ = _FixedSame
    return model
