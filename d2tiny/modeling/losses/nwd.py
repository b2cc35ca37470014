"""Normalised Wasserstein distance as a loss (Xu et al., ISPRS 2022)."""

from __future__ import annotations

from torch import Tensor

from d2tiny.modeling.losses.base import BoxLoss
from d2tiny.ops.boxes import xyxy_to_cxcywh
from d2tiny.ops.gaussian import nwd_score
from d2tiny.utils.registry import BOX_LOSS_REGISTRY

__all__ = ["NWDLoss", "nwd_loss"]


def nwd_loss(pred: Tensor, target: Tensor, *, constant: float = 12.8) -> Tensor:
    """Compute ``1 − exp(−W₂ / C)`` element-wise.

    Args:
        pred: (P, 4) XYXY in px.
        target: (P, 4) XYXY in px.
        constant: C in px.

    Returns:
        (P,) in (0, 1); 8e-5 for equal boxes, because of the ε under the root of W₂.
    """
    p, t = xyxy_to_cxcywh(pred), xyxy_to_cxcywh(target)
    return 1 - nwd_score(p[:, 0] - t[:, 0], p[:, 1] - t[:, 1], p[:, 2], p[:, 3], t[:, 2], t[:, 3], constant=constant)


@BOX_LOSS_REGISTRY.register()
class NWDLoss(BoxLoss):
    """One minus the normalised Wasserstein distance of decoded boxes.

    It depends on distances in px alone, so an error of one pixel costs the same for objects of 6 px and of 36 px.

    Differences from the paper: none known. The released configs weight it with 10 in the RPN of Faster R-CNN.
    """

    space = "box"

    def __init__(self, *, constant: float = 12.8, loss_weight: float = 1.0) -> None:
        """Set the constant.

        Args:
            constant: C, about the mean size √(w·h) of the objects in px (12.8 for AI-TOD, 12.7 for AI-TOD-v2).
            loss_weight: factor on the result.

        Raises:
            ValueError: C is not positive.
        """
        super().__init__(loss_weight=loss_weight)
        if constant <= 0:
            raise ValueError(f"NWDLoss: constant must be > 0 px, got {constant}.")
        self.constant = constant

    def _elementwise(self, pred: Tensor, target: Tensor, groups: Tensor | None) -> Tensor:
        return nwd_loss(pred, target, constant=self.constant)
