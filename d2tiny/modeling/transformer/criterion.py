"""Losses of DINO: matching, focal classes, L1 and GIoU of boxes, on all layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from d2tiny.modeling.assigners import HungarianMatcher
from d2tiny.modeling.transformer.decoder import Decoded
from d2tiny.modeling.transformer.denoising import DenoisingQueries
from d2tiny.ops.boxes import cxcywh_to_xyxy, max_iof
from d2tiny.utils.distributed import reduce_mean

__all__ = ["DINOCriterion"]

Matched = tuple[Tensor, Tensor, Tensor]  # image, query, ground truth of each pair


class DINOCriterion:
    """Focal loss of the classes, L1 and GIoU of the boxes; divided by the number of objects of all processes."""

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
            matcher: finds each object its query.
            class_weight: of the focal loss.
            l1_weight: of L1 of cx, cy, w, h in shares of the image.
            giou_weight: of 1 − GIoU.
            alpha: of the focal loss.
            gamma: likewise.

        Raises:
            ValueError: a negative weight.
        """
        if min(class_weight, l1_weight, giou_weight) < 0:
            raise ValueError(f"DINOCriterion: weights must be >= 0: {class_weight}, {l1_weight}, {giou_weight}.")
        self.matcher = matcher
        self.class_weight, self.l1_weight, self.giou_weight = class_weight, l1_weight, giou_weight
        self.alpha, self.gamma = alpha, gamma

    def counts(self, classes: Sequence[Tensor], positives: int = 0) -> tuple[Tensor, Tensor]:
        """Objects and denoised positives of an average process, each at least 1; every process must call it."""
        objects = float(sum(len(c) for c in classes))
        count, noisy = reduce_mean(classes[0].new_tensor([objects, positives], dtype=torch.float32)).clamp(min=1)
        return count, noisy

    def matched(
        self,
        logits: Tensor,
        boxes: Tensor,
        classes: Sequence[Tensor],
        targets: Sequence[Tensor],
        count: Tensor,
        real: Tensor | None = None,
        ignored: Sequence[Tensor] = (),
        suffix: str = "",
    ) -> dict[str, Tensor]:
        """Losses of one layer's queries after matching.

        Args:
            logits: (B, K, C).
            boxes: (B, K, 4).
            classes: (G,) of each image.
            targets: (G, 4) of each image, cx, cy, w, h in shares of the image.
            count: what losses are divided by.
            real: (B, K) boolean, queries that count; None: all.
            ignored: (R, 4) of each image, regions whose unmatched queries learn nothing, as ``targets``.
            suffix: of the names.
        """
        parts = []
        for i, (cls, target) in enumerate(zip(classes, targets, strict=True)):
            which = torch.arange(logits.shape[1], device=logits.device) if real is None else real[i].nonzero().flatten()
            query, gt = self.matcher(logits[i, which].detach(), boxes[i, which].detach(), cls, target)
            parts.append((torch.full_like(query, i), which[query], gt))
        image, query, gt = (torch.cat(p) for p in zip(*parts, strict=True))
        if any(len(regions) for regions in ignored):
            quiet = torch.stack([self._inside(b, r) for b, r in zip(boxes.detach(), ignored, strict=True)])
            quiet[image, query] = False
            real = ~quiet if real is None else real & ~quiet
        return self._losses(logits, boxes, classes, targets, (image, query, gt), count, real, suffix)

    @staticmethod
    def _inside(boxes: Tensor, regions: Tensor) -> Tensor:
        """(K,) whether more than half of a box lies in an ignore region."""
        return max_iof(cxcywh_to_xyxy(boxes.float()), cxcywh_to_xyxy(regions.float())) > 0.5

    def denoised(
        self,
        said: Decoded,
        noisy: DenoisingQueries,
        classes: Sequence[Tensor],
        targets: Sequence[Tensor],
        count: Tensor,
    ) -> dict[str, Tensor]:
        """Losses of the denoising queries of all layers: positives learn their object, negatives background."""
        pairs = (noisy.image, noisy.query, noisy.gt)
        losses: dict[str, Tensor] = {}
        for suffix, logits, boxes in _layers(said, "_dn"):
            losses |= self._losses(logits, boxes, classes, targets, pairs, count, None, suffix)
        return losses

    @staticmethod
    def nothing_denoised(layers: int, zero: Tensor) -> dict[str, Tensor]:
        """The losses of :meth:`denoised` where there is no object."""
        names = ["_dn", *(f"_dn_{i}" for i in range(layers - 1))]
        return {f"loss_{kind}{name}": zero for name in names for kind in ("class", "bbox", "giou")}

    def decoded(
        self,
        said: Decoded,
        classes: Sequence[Tensor],
        targets: Sequence[Tensor],
        count: Tensor,
        real: Tensor | None = None,
        ignored: Sequence[Tensor] = (),
    ) -> dict[str, Tensor]:
        """Losses of the matching queries of all layers; arguments as of :meth:`matched`."""
        losses: dict[str, Tensor] = {}
        for suffix, logits, boxes in _layers(said, ""):
            losses |= self.matched(logits, boxes, classes, targets, count, real, ignored, suffix)
        return losses

    def _losses(
        self,
        logits: Tensor,
        boxes: Tensor,
        classes: Sequence[Tensor],
        targets: Sequence[Tensor],
        pairs: Matched,
        count: Tensor,
        real: Tensor | None,
        suffix: str,
    ) -> dict[str, Tensor]:
        image, query, gt = pairs
        first = torch.tensor([0, *(len(c) for c in classes[:-1])], device=logits.device).cumsum(0)
        gt = gt + first[image]
        wanted = torch.zeros_like(logits)
        wanted[image, query, torch.cat(list(classes))[gt]] = 1
        focal = sigmoid_focal_loss(logits, wanted, alpha=self.alpha, gamma=self.gamma)
        if real is not None:
            focal = focal * real[..., None]
        said, target = boxes[image, query], torch.cat(list(targets))[gt].to(boxes.dtype)
        # Areas are shares of the image: torchvision's 1e-7 is as much as 2 px of a side of 6,000.
        overlap = generalized_box_iou_loss(cxcywh_to_xyxy(said), cxcywh_to_xyxy(target), reduction="sum", eps=1e-12)
        return {
            f"loss_class{suffix}": self.class_weight * focal.sum() / count,
            f"loss_bbox{suffix}": self.l1_weight * F.l1_loss(said, target, reduction="sum") / count,
            f"loss_giou{suffix}": self.giou_weight * overlap / count,
        }


def _layers(said: Decoded, name: str) -> list[tuple[str, Tensor, Tensor]]:
    """Suffix, logits and boxes of each layer; the last has no number."""
    last = len(said.logits) - 1
    return [
        (name if i == last else f"{name}_{i}", logits, boxes)
        for i, (logits, boxes) in enumerate(zip(said.logits, said.boxes, strict=True))
    ]
