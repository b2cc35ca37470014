"""Assignment by overlap thresholds, as Faster R-CNN does it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from d2tiny.modeling.assigners.base import Assigner, AssignResult, Priors, empty_result
from d2tiny.ops.boxes import chunks, pairwise_iou
from d2tiny.utils.registry import ASSIGNER_REGISTRY

__all__ = ["MaxIoUAssigner"]


@ASSIGNER_REGISTRY.register()
class MaxIoUAssigner(Assigner):
    """A prior is positive when its best IoU reaches ``pos_iou``, negative under ``neg_iou``, ignored between.

    With ``low_quality`` the best priors of every ground truth are positive whatever their IoU (ties all win), as
    Detectron2's ``Matcher(allow_low_quality_matches=True)``. Differences from it: a ground truth that overlaps no
    prior at all makes nothing positive (there it makes every such prior positive), and memory does not grow with G.
    """

    def __init__(
        self,
        *,
        pos_iou: float = 0.7,
        neg_iou: float = 0.3,
        low_quality: bool = True,
        ignore_iof_thresh: float = 0.5,
    ) -> None:
        """Set the thresholds.

        Args:
            pos_iou: lowest IoU of a positive, in (0, 1].
            neg_iou: IoU under which a prior is negative, in [0, pos_iou].
            low_quality: whether the best priors of a ground truth are always positive.
            ignore_iof_thresh: see :class:`Assigner`.

        Raises:
            ValueError: thresholds out of order.
        """
        super().__init__(ignore_iof_thresh=ignore_iof_thresh)
        if not 0 <= neg_iou <= pos_iou <= 1:
            raise ValueError(f"MaxIoUAssigner: need 0 <= neg_iou <= pos_iou <= 1, got {neg_iou}, {pos_iou}.")
        self.pos_iou = pos_iou
        self.neg_iou = neg_iou
        self.low_quality = low_quality

    def _assign(self, priors: Priors, gt_boxes: Tensor, predictions: Any) -> AssignResult:
        num_priors, device = len(priors), gt_boxes.device
        if num_priors == 0 or len(gt_boxes) == 0:
            return empty_result(num_priors, device)
        boxes = (priors if isinstance(priors, Tensor) else priors.boxes()).float()
        gts = gt_boxes.float()
        best = torch.full((num_priors,), -1.0, device=device)
        matched = torch.zeros(num_priors, dtype=torch.int64, device=device)
        low = torch.zeros(num_priors, dtype=torch.bool, device=device)
        for part in chunks(len(gts), num_priors):
            iou = pairwise_iou(gts[part], boxes)
            value, index = iou.max(dim=0)
            better = value > best
            best = torch.where(better, value, best)
            matched = torch.where(better, index + part.start, matched)
            if self.low_quality:
                row = iou.amax(dim=1, keepdim=True)
                low |= ((iou == row) & (row > 0)).any(dim=0)
        labels = torch.full((num_priors,), -1, dtype=torch.int8, device=device)
        labels[best < self.neg_iou] = 0
        labels[(best >= self.pos_iou) | low] = 1
        positive = labels == 1
        return AssignResult(torch.where(positive, matched, -1), labels, torch.where(positive, best, 0.0))
