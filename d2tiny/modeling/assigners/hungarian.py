"""One-to-one matching of queries and objects (Carion et al., DETR, 2020) with the costs of DINO."""

from __future__ import annotations

import logging

import torch
from detectron2.utils.logger import log_first_n
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from d2tiny.ops.boxes import cxcywh_to_xyxy, pairwise_giou

__all__ = ["HungarianMatcher"]


class HungarianMatcher:
    """The assignment of least total cost: focal cost of the class, L1 and 1 − GIoU of the boxes."""

    def __init__(
        self, *, class_weight: float = 2.0, l1_weight: float = 5.0, giou_weight: float = 2.0,
        alpha: float = 0.25, gamma: float = 2.0,
    ) -> None:  # fmt: skip
        """Set the weights of the costs, and α and γ of the focal cost.

        Raises:
            ValueError: a negative weight, or none that is positive.
        """
        if min(class_weight, l1_weight, giou_weight) < 0 or not class_weight + l1_weight + giou_weight > 0:
            raise ValueError(
                f"HungarianMatcher: weights must be >= 0, one of them > 0: {class_weight}, {l1_weight}, {giou_weight}."
            )
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight
        self.alpha, self.gamma = alpha, gamma

    def cost(self, logits: Tensor, boxes: Tensor, gt_classes: Tensor, gt_boxes: Tensor) -> Tensor:
        """(K, G) costs of an image, in float32.

        Args:
            logits: (K, C) of the classes.
            boxes: (K, 4) cx, cy, w, h as shares of the image.
            gt_classes: (G,).
            gt_boxes: (G, 4) likewise.
        """
        probability = logits.float().sigmoid()[:, gt_classes]
        found = self.alpha * (1 - probability) ** self.gamma * -torch.log(probability + 1e-8)
        missed = (1 - self.alpha) * probability**self.gamma * -torch.log(1 - probability + 1e-8)
        boxes, gt_boxes = boxes.float(), gt_boxes.float()
        total = self.class_weight * (found - missed)
        total += self.l1_weight * torch.cdist(boxes, gt_boxes, p=1)
        total -= self.giou_weight * pairwise_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(gt_boxes))
        return total

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, gt_classes: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Match; arguments as of :meth:`cost`.

        Returns:
            (N,) queries and (N,) objects, N = min(K, G), by query. With fewer queries than objects some are left out.

        Raises:
            FloatingPointError: NaN or infinity in the costs.
        """
        if not len(gt_boxes):
            none = torch.zeros(0, dtype=torch.int64, device=logits.device)
            return none, none
        cost = self.cost(logits, boxes, gt_classes, gt_boxes)
        if not bool(torch.isfinite(cost).all()):
            raise FloatingPointError("HungarianMatcher: predictions contain NaN or infinity.")
        if len(logits) < len(gt_boxes):
            message = f"{len(logits)} queries for {len(gt_boxes)} objects: not all can be learned. Said once."
            log_first_n(logging.WARNING, message, name=__name__)
        query, gt = linear_sum_assignment(cost.cpu().numpy())
        return torch.as_tensor(query, device=logits.device), torch.as_tensor(gt, device=logits.device)
