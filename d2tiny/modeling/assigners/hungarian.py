"""One-to-one matching of queries and objects (Carion et al., DETR, 2020) with the costs of DINO."""

from __future__ import annotations

import logging

import torch
from detectron2.utils.logger import log_first_n
from torch import Tensor

from d2tiny.modeling.contracts import MatchIndices, QueryPredictions, Targets
from d2tiny.ops.boxes import cxcywh_to_xyxy, pairwise_giou

__all__ = ["HungarianMatcher"]


class HungarianMatcher:
    """Matches each object with one query so that the total cost is least.

    The cost of a pair is the weighted sum of a focal cost of the class, the L1 distance of the boxes and -GIoU.
    """

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

    def cost(self, pred_logits: Tensor, pred_boxes: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        """Return the (Q, G) float32 costs of all pairs in one image.

        Args:
            pred_logits: (Q, K) class logits.
            pred_boxes: (Q, 4) cx, cy, w, h in shares of the image.
            labels: (G,) int64 classes of the objects.
            boxes: (G, 4) boxes of the objects, as ``pred_boxes``.
        """
        probability = pred_logits.float().sigmoid()[:, labels]
        positive = self.alpha * (1 - probability) ** self.gamma * -torch.log(probability + 1e-8)
        negative = (1 - self.alpha) * probability**self.gamma * -torch.log(1 - probability + 1e-8)
        pred_boxes, boxes = pred_boxes.float(), boxes.float()
        total = self.class_weight * (positive - negative)
        total += self.l1_weight * torch.cdist(pred_boxes, boxes, p=1)
        total -= self.giou_weight * pairwise_giou(cxcywh_to_xyxy(pred_boxes), cxcywh_to_xyxy(boxes))
        return total

    @torch.no_grad()
    def __call__(
        self, predictions: QueryPredictions, targets: Targets, valid_mask: Tensor | None = None
    ) -> MatchIndices:
        """Match queries and objects of each image.

        Args:
            predictions: (B, Q, ...) of the queries.
            targets: objects of the B images.
            valid_mask: (B, Q) boolean, False for padding queries, which are never matched; None without padding.

        Returns:
            min(Q, G) pairs for each image, ordered by query. With fewer queries than objects some objects have none.

        Raises:
            FloatingPointError: NaN or infinity in the predictions.
        """
        pairs = []
        for i, (labels, boxes) in enumerate(zip(targets.labels, targets.boxes, strict=True)):
            logits, pred_boxes = predictions.pred_logits[i], predictions.pred_boxes[i]
            if valid_mask is None:
                query_idx, target_idx = self._match_image(logits, pred_boxes, labels, boxes)
            else:
                valid = valid_mask[i].nonzero().flatten()
                query_idx, target_idx = self._match_image(logits[valid], pred_boxes[valid], labels, boxes)
                query_idx = valid[query_idx]
            pairs.append((torch.full_like(query_idx, i), query_idx, target_idx))
        return MatchIndices(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))

    def _match_image(
        self, pred_logits: Tensor, pred_boxes: Tensor, labels: Tensor, boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the indices of queries and objects of one image; arguments as of :meth:`cost`."""
        from scipy.optimize import linear_sum_assignment  # slow to import

        if not len(boxes):
            empty = torch.zeros(0, dtype=torch.int64, device=pred_logits.device)
            return empty, empty
        cost = self.cost(pred_logits, pred_boxes, labels, boxes)
        if not bool(torch.isfinite(cost).all()):
            raise FloatingPointError("HungarianMatcher: predictions contain NaN or infinity.")
        if len(pred_logits) < len(boxes):
            message = f"{len(pred_logits)} queries for {len(boxes)} objects: not all can be learned. Logged once."
            log_first_n(logging.WARNING, message, name=__name__)
        query_idx, target_idx = linear_sum_assignment(cost.cpu().numpy())
        device = pred_logits.device
        return torch.as_tensor(query_idx, device=device), torch.as_tensor(target_idx, device=device)
