"""IoU losses on decoded boxes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.ops import (
    distance_box_iou_loss,
    generalized_box_iou_loss,
)

from d2tiny.modeling.losses.base import BoxLoss
from d2tiny.ops.boxes import aligned_ciou, aligned_iou
from d2tiny.utils.errors import did_you_mean
from d2tiny.utils.registry import BOX_LOSS_REGISTRY

__all__ = ["IOU_LOSSES", "IoULoss", "iou_loss"]


def _plain(pred: Tensor, target: Tensor, reduction: str = "none") -> Tensor:
    return 1 - aligned_iou(pred, target)


def _squared(pred: Tensor, target: Tensor, reduction: str = "none") -> Tensor:
    return 1 - aligned_iou(pred, target) ** 2


def _complete(pred: Tensor, target: Tensor, reduction: str = "none") -> Tensor:
    return 1 - aligned_ciou(pred, target)


IOU_LOSSES: dict[str, Callable[..., Tensor]] = {
    "iou": _plain,
    "iou2": _squared,
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": _complete,
}


def iou_loss(pred: Tensor, target: Tensor, kind: str) -> Tensor:
    """Compute 1 − IoU, 1 − IoU² (``iou2``), 1 − GIoU, 1 − DIoU or 1 − CIoU, element-wise.

    Args:
        pred: (P, 4) XYXY in px.
        target: (P, 4) XYXY in px.
        kind: a key of :data:`IOU_LOSSES`.

    Returns:
        (P,); in [0, 1] for ``iou`` and ``iou2``, up to 2 for the others (CIoU a little more).

    Raises:
        ValueError: unknown kind.
    """
    if kind not in IOU_LOSSES:
        raise ValueError(f"Unknown IoU loss '{kind}'. {did_you_mean(kind, IOU_LOSSES)}")
    return IOU_LOSSES[kind](pred, target, reduction="none")


@BOX_LOSS_REGISTRY.register()
class IoULoss(BoxLoss):
    """One minus an overlap of decoded XYXY boxes; GIoU and DIoU are torchvision's functions."""

    space = "box"

    def __init__(self, *, kind: str = "giou", loss_weight: float = 1.0) -> None:
        """Set the kind of overlap.

        Args:
            kind: ``iou``, ``iou2`` (IoU²), ``giou``, ``diou`` or ``ciou``.
            loss_weight: factor on the result.

        Raises:
            ValueError: unknown kind.
        """
        super().__init__(loss_weight=loss_weight)
        if kind not in IOU_LOSSES:
            raise ValueError(f"IoULoss: unknown kind '{kind}'. {did_you_mean(kind, IOU_LOSSES)}")
        self.kind = kind

    def _elementwise(self, pred: Tensor, target: Tensor, groups: Tensor | None) -> Tensor:
        return iou_loss(pred, target, self.kind)
