"""L1 and smooth L1 on encoded deltas."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from d2tiny.modeling.losses.base import BoxLoss
from d2tiny.utils.registry import BOX_LOSS_REGISTRY

__all__ = ["SmoothL1Loss"]


@BOX_LOSS_REGISTRY.register()
class SmoothL1Loss(BoxLoss):
    """Huber loss divided by its β; β = 0 is L1 (Fast R-CNN, eq. 3)."""

    space = "delta"

    def __init__(self, *, beta: float = 0.0, loss_weight: float = 1.0) -> None:
        """Set the transition.

        Args:
            beta: β ≥ 0, error at which the loss changes from quadratic to linear.
            loss_weight: factor on the result.

        Raises:
            ValueError: ``beta`` is negative.
        """
        super().__init__(loss_weight=loss_weight)
        if beta < 0:
            raise ValueError(f"SmoothL1Loss: beta must be >= 0, got {beta}.")
        self.beta = beta

    def _elementwise(self, pred: Tensor, target: Tensor, groups: Tensor | None) -> Tensor:
        return F.smooth_l1_loss(pred, target, reduction="none", beta=self.beta)
