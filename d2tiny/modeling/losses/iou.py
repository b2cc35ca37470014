"""The IoU family on decoded boxes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.ops import (
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
)

from d2tiny.modeling.losses.base import BoxLoss
from d2tiny.utils.errors import did_you_mean
from d2tiny.utils.registry import BOX_LOSS_REGISTRY

__all__ = ["IoULoss"]

_KINDS: dict[str, Callable[..., Tensor]] = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}


@BOX_LOSS_REGISTRY.register()
class IoULoss(BoxLoss):
    """1 − GIoU, DIoU or CIoU of decoded XYXY boxes (torchvision's functions)."""

    space = "box"

    def __init__(self, *, kind: str = "giou", loss_weight: float = 1.0) -> None:
        """Choose the ``kind``: ``giou``, ``diou`` or ``ciou``.

        Raises:
            ValueError: unknown kind.
        """
        super().__init__(loss_weight=loss_weight)
        if kind not in _KINDS:
            raise ValueError(f"IoULoss: unknown kind '{kind}'. {did_you_mean(kind, _KINDS)}")
        self.kind = kind

    def _elementwise(self, pred: Tensor, target: Tensor) -> Tensor:
        return _KINDS[self.kind](pred, target, reduction="none")
