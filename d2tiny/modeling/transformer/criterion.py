"""Losses of DINO: focal loss of the classes, L1 and GIoU of the boxes, on the outputs of all layers."""

from __future__ import annotations

import torch
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from d2tiny.modeling.assigners import HungarianMatcher
from d2tiny.modeling.contracts import MatchIndices, QueryPredictions, Targets
from d2tiny.modeling.transformer.decoder import DecoderOutput
from d2tiny.modeling.transformer.denoising import DenoisingQueries
from d2tiny.ops.boxes import cxcywh_to_xyxy, max_iof
from d2tiny.utils.distributed import reduce_mean

__all__ = ["DINOCriterion"]

Losses = dict[str, Tensor]


class DINOCriterion:
    """Computes the losses of queries; all are divided by the number of objects of an average process."""

    def __init__(
        self,
        *,
        matcher: HungarianMatcher,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        """Set the weights of the losses.

        Args:
            matcher: matches queries and objects.
            class_weight: weight of the focal loss.
            l1_weight: weight of the L1 loss of cx, cy, w, h in shares of the image.
            giou_weight: weight of 1 − GIoU.
            alpha: α of the focal loss.
            gamma: γ of the focal loss.

        Raises:
            ValueError: a negative weight.
        """
        if min(class_weight, l1_weight, giou_weight) < 0:
            raise ValueError(f"DINOCriterion: weights must be >= 0: {class_weight}, {l1_weight}, {giou_weight}.")
        self.matcher = matcher
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight
        self.alpha, self.gamma = alpha, gamma

    def num_boxes(self, targets: Targets, num_positives: int = 0) -> tuple[Tensor, Tensor]:
        """Return by what the losses of matching and of denoising queries are divided, each at least 1.

        Both are means over all processes, so every process must call this, whatever its images hold.

        Args:
            targets: objects of this process's images.
            num_positives: positive denoising queries of this process.
        """
        counts = [float(sum(len(labels) for labels in targets.labels)), num_positives]
        counts_tensor = targets.labels[0].new_tensor(counts, dtype=torch.float32)
        num_boxes, num_denoised = reduce_mean(counts_tensor).clamp(min=1)
        return num_boxes, num_denoised

    def matched_losses(
        self, predictions: QueryPredictions, targets: Targets, num_boxes: Tensor, valid_mask: Tensor | None = None
    ) -> Losses:
        """Match queries and objects, and return ``loss_class``, ``loss_bbox`` and ``loss_giou``.

        Args:
            predictions: (B, Q, ...) of the queries. Unmatched ones learn background, unless more than half of their box
                lies in an ignore region.
            targets: objects and ignore regions of the B images.
            num_boxes: what the losses are divided by.
            valid_mask: (B, Q) boolean, False for padding queries, which learn nothing; None without padding.
        """
        indices = self.matcher(predictions, targets, valid_mask)
        if any(len(regions) for regions in targets.ignore_boxes):
            ignored = _in_regions(predictions.pred_boxes.detach(), targets.ignore_boxes)
            ignored[indices.batch_idx, indices.query_idx] = False
            valid_mask = ~ignored if valid_mask is None else valid_mask & ~ignored
        return self._losses(predictions, targets, indices, num_boxes, valid_mask)

    def decoder_losses(
        self, outputs: DecoderOutput, targets: Targets, num_boxes: Tensor, valid_mask: Tensor | None = None
    ) -> Losses:
        """Return the losses of the matching queries in all decoder layers.

        Those of the last layer are called ``loss_class``, those of layer i ``loss_class_i``, and likewise the others.
        Arguments are as of :meth:`matched_losses`.
        """
        losses: Losses = {}
        for suffix, predictions in _named_layers(outputs, ""):
            losses |= _with_suffix(self.matched_losses(predictions, targets, num_boxes, valid_mask), suffix)
        return losses

    def encoder_losses(
        self, predictions: QueryPredictions, targets: Targets, num_boxes: Tensor, valid_mask: Tensor | None = None
    ) -> Losses:
        """Return ``loss_class_enc`` and so on, of the encoder's predictions for the selected tokens.

        Arguments are as of :meth:`matched_losses`.
        """
        return _with_suffix(self.matched_losses(predictions, targets, num_boxes, valid_mask), "_enc")

    def denoising_losses(
        self, outputs: DecoderOutput, queries: DenoisingQueries, targets: Targets, num_boxes: Tensor
    ) -> Losses:
        """Return ``loss_class_dn``, ``loss_class_dn_i`` and so on, of the denoising queries in all decoder layers.

        Positive queries learn their object, negative ones background.

        Args:
            outputs: predictions for the denoising queries.
            queries: the denoising queries.
            targets: objects of the B images.
            num_boxes: what the losses are divided by.
        """
        losses: Losses = {}
        for suffix, predictions in _named_layers(outputs, "_dn"):
            losses |= _with_suffix(self._losses(predictions, targets, queries.indices, num_boxes, None), suffix)
        return losses

    @staticmethod
    def zero_denoising_losses(num_layers: int, zero: Tensor) -> Losses:
        """Return what :meth:`denoising_losses` names, all ``zero``, for a batch without objects."""
        suffixes = ["_dn", *(f"_dn_{i}" for i in range(num_layers - 1))]
        return {f"loss_{kind}{suffix}": zero for suffix in suffixes for kind in ("class", "bbox", "giou")}

    def _losses(
        self,
        predictions: QueryPredictions,
        targets: Targets,
        indices: MatchIndices,
        num_boxes: Tensor,
        valid_mask: Tensor | None,
    ) -> Losses:
        logits, boxes = predictions.pred_logits, predictions.pred_boxes
        batch_idx, query_idx, target_idx = indices
        counts = [len(labels) for labels in targets.labels]
        offsets = torch.tensor([0, *counts[:-1]], device=logits.device).cumsum(0)
        target_idx = target_idx + offsets[batch_idx]
        target_classes = torch.zeros_like(logits)
        target_classes[batch_idx, query_idx, torch.cat(targets.labels)[target_idx]] = 1
        focal = sigmoid_focal_loss(logits, target_classes, alpha=self.alpha, gamma=self.gamma)
        if valid_mask is not None:
            focal = focal * valid_mask[..., None]
        matched = boxes[batch_idx, query_idx]
        target_boxes = torch.cat(targets.boxes)[target_idx].to(boxes.dtype)
        # Areas are shares of the image: torchvision's default eps of 1e-7 would be that of 2 × 2 px in 6,000 × 6,000.
        corners = (cxcywh_to_xyxy(matched), cxcywh_to_xyxy(target_boxes))
        giou = generalized_box_iou_loss(*corners, reduction="sum", eps=1e-12)
        return {
            "loss_class": self.class_weight * focal.sum() / num_boxes,
            "loss_bbox": self.l1_weight * F.l1_loss(matched, target_boxes, reduction="sum") / num_boxes,
            "loss_giou": self.giou_weight * giou / num_boxes,
        }


def _in_regions(boxes: Tensor, regions: list[Tensor]) -> Tensor:
    """Return (B, Q) whether more than half of a box's area lies in one of its image's ignore regions."""
    return torch.stack(
        [
            max_iof(cxcywh_to_xyxy(image_boxes.float()), cxcywh_to_xyxy(image_regions.float())) > 0.5
            for image_boxes, image_regions in zip(boxes, regions, strict=True)
        ]
    )


def _named_layers(outputs: DecoderOutput, name: str) -> list[tuple[str, QueryPredictions]]:
    """Return suffix and predictions of each layer; the suffix of the last has no number."""
    last = len(outputs.pred_logits) - 1
    return [(name if i == last else f"{name}_{i}", layer) for i, layer in enumerate(outputs.layers)]


def _with_suffix(losses: Losses, suffix: str) -> Losses:
    return {f"{name}{suffix}": loss for name, loss in losses.items()}
