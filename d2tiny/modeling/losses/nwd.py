"""Normalised Wasserstein distance as a loss (Xu et al., ISPRS 2022)."""

from __future__ import annotations

from torch import Tensor

from d2tiny.modeling.losses.base import BoxLoss
from d2tiny.ops.boxes import xyxy_to_cxcywh
from d2tiny.ops.gaussian import nwd_score
from d2tiny.utils.registry import BOX_LOSS_REGISTRY

__all__ = ["NWDLoss", "nwd_loss"]


def nwd_loss(pred: Tensor, target: Tensor, *, constant: float = 12.8) -> Tensor:
    """Element-wise ``1 − exp(−W₂ / C)`` of XYXY boxes (P, 4); in (0, 1), of equal boxes 8e-5 (ε under the root)."""
    p, t = xyxy_to_cxcywh(pred), xyxy_to_cxcywh(target)
    return 1 - nwd_score(p[:, 0] - t[:, 0], p[:, 1] - t[:, 1], p[:, 2], p[:, 3], t[:, 2], t[:, 3], constant=constant)


@BOX_LOSS_REGISTRY.register()
class NWDLoss(BoxLoss):
    """1 − NWD of decoded boxes. It depends on distances in px alone, so a miss by a pixel costs 6 px and 36 px objects
    the same.

    Differences from the paper: none known. The released configs weight it with 10 in the RPN of Faster R-CNN.
    """  # noqa: D205

    space = "box"

    def __init__(self, *, constant: float = 12.8, loss_weight: float = 1.0) -> None:
        """Set C, about the mean size √(w·h) of the objects in px (12.8 for AI-TOD, 12.7 for AI-TOD-v2).

        Raises:
            ValueError: C that is not positive.
        """
        super().__init__(loss_weight=loss_weight)
        if constant <= 0:
            raise ValueError(f"NWDLoss: constant must be > 0 px, got {constant}.")
        self.constant = constant

    def _elementwise(self, pred: Tensor, target: Tensor, groups: Tensor | None) -> Tensor:
        return nwd_loss(pred, target, constant=self.constant)
