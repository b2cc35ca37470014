"""Anchor-based and anchor-free dense heads: one class, any priors, assigner and box loss.

Shapes: B images, N = Σ_levels H·W·A priors of an image in (level, row, column, anchor) order, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import cat
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Instances
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.modeling.assigners import Assigner
from d2tiny.modeling.dense_heads.common import (
    DenseTargets,
    LevelScores,
    assign_targets,
    check_selection,
    detections_of_levels,
)
from d2tiny.modeling.losses import BoxLoss, regression_loss
from d2tiny.modeling.priors import GridPriors, grid_from_generator
from d2tiny.utils.distributed import reduce_mean

__all__ = ["DenseHead"]

# A point outside its object (HLA allows that) still has a centerness.
_LEAST = 0.01


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """√(min(l,r)/max(l,r) · min(t,b)/max(t,b)) in (0, 1] of (P, 2) points in (P, 4) boxes (FCOS eq. 3; RFLA clamps)."""
    near, far = points - boxes[:, :2], boxes[:, 2:] - points
    ratio = torch.minimum(near, far).clamp(min=_LEAST) / torch.maximum(near, far).clamp(min=_LEAST)
    return ratio.prod(dim=1).sqrt()


class DenseHead(nn.Module):
    """Classifies every prior with focal loss and regresses the positive ones.

    With three outputs of ``net`` (class, box, centerness) it is FCOS: box losses weigh by centerness, scores are
    multiplied by it. With two it is RetinaNet.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        net: nn.Module,
        anchor_generator: DefaultAnchorGenerator,
        assigner: Assigner,
        box_loss: BoxLoss,
        box2box_transform: Any,
        assign_generator: DefaultAnchorGenerator | None = None,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        pre_nms_topk: int = 3000,
        max_detections: int = 3000,
    ) -> None:
        """Put the parts together.

        Args:
            num_classes: K.
            net: list of features to lists of (B, A·K, H, W), (B, A·4, H, W) and, for FCOS, (B, A, H, W).
            anchor_generator: what boxes are regressed from; for points, squares of the stride.
            assigner: labels the priors.
            box_loss: on encoded deltas or decoded boxes, as it wants.
            box2box_transform: the box coder.
            assign_generator: other priors for the assigner (receptive fields round the points); one for one with those
                of ``anchor_generator``.
            focal_alpha: weight of positives in the focal loss.
            focal_gamma: its exponent.
            score_thresh: class probabilities must be above it.
            nms_thresh: IoU above which the worse detection of a class goes.
            pre_nms_topk: priors of a level that are decoded, by their best score.
            max_detections: of an image.
        """
        super().__init__()
        check_selection(type(self).__name__, score_thresh, nms_thresh, pre_nms_topk, max_detections)
        self.num_classes, self.net, self.assigner, self.box_loss = num_classes, net, assigner, box_loss
        self.anchor_generator, self.assign_generator = anchor_generator, assign_generator
        self.box2box_transform = box2box_transform
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.pre_nms_topk, self.max_detections = pre_nms_topk, max_detections

    def forward(self, features: list[Tensor]) -> list[list[Tensor]]:
        """Return logits (B, HWA, K), deltas (B, HWA, 4) and perhaps centerness (B, HWA, 1), each a list of levels."""
        widths = (self.num_classes, 4, 1)
        return [
            [permute_to_N_HWA_K(level, width) for level in levels]
            for levels, width in zip(self.net(features), widths, strict=False)
        ]

    def priors(self, features: Sequence[Tensor], *, assign: bool = False) -> GridPriors:
        """The priors on these maps, for regression or for assignment."""
        generator = self.assign_generator if assign and self.assign_generator is not None else self.anchor_generator
        return grid_from_generator(generator, features)

    @torch.no_grad()
    def targets(self, priors: GridPriors, instances: Sequence[Instances], predictions: Any = None) -> DenseTargets:
        """Label the priors of each image by their places alone; predictions are not looked at."""
        return assign_targets(self.assigner, priors, instances, self.num_classes)

    def losses(self, predictions: list[list[Tensor]], priors: GridPriors, targets: DenseTargets) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_box_reg``, for FCOS ``loss_centerness``, divided by the positives of all processes."""
        logits, deltas, *quality = [cat(levels, dim=1).float() for levels in predictions]
        valid = targets.classes >= 0
        positive = valid & (targets.classes < self.num_classes)
        image, index = positive.nonzero(as_tuple=True)
        count = reduce_mean(positive.sum().float()).clamp(min=1)
        wanted = F.one_hot(targets.classes[valid], self.num_classes + 1)[:, :-1].to(logits.dtype)
        focal = sigmoid_focal_loss(
            logits[valid], wanted, alpha=self.focal_alpha, gamma=self.focal_gamma, reduction="sum"
        )
        losses = {"loss_cls": focal / count}
        anchors, boxes = priors.boxes()[index], targets.boxes[image, index]
        weight, factor = None, count
        if quality:
            weight = centerness((anchors[:, :2] + anchors[:, 2:]) / 2, boxes)
            factor = reduce_mean(weight.sum()).clamp(min=1e-6)
            said = quality[0][image, index, 0]
            losses["loss_centerness"] = F.binary_cross_entropy_with_logits(said, weight, reduction="sum") / count
        losses["loss_box_reg"] = regression_loss(
            self.box_loss,
            self.box2box_transform,
            deltas[image, index],
            anchors,
            boxes,
            weight=weight,
            avg_factor=factor,
            groups=image,
        )
        return losses

    @torch.no_grad()
    def decode(
        self, predictions: list[list[Tensor]], priors: GridPriors, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Detections of each image, by falling score."""
        return [self._decode_image(predictions, priors, i, size) for i, size in enumerate(image_sizes)]

    def _decode_image(
        self, predictions: list[list[Tensor]], priors: GridPriors, image: int, size: tuple[int, int]
    ) -> Instances:
        found = []
        for number, anchors in enumerate(priors.level_boxes):
            logits, deltas, *quality = [levels[number][image].float() for levels in predictions]
            scores = logits.sigmoid()
            rank = scores * quality[0].sigmoid() if quality else scores

            def boxes(best: Tensor, deltas: Tensor = deltas, anchors: Tensor = anchors) -> Tensor:
                return self.box2box_transform.apply_deltas(deltas[best], anchors[best])

            found.append(LevelScores(boxes, rank, scores))
        return detections_of_levels(
            found,
            size,
            score_thresh=self.score_thresh,
            nms_thresh=self.nms_thresh,
            pre_nms_topk=self.pre_nms_topk,
            max_detections=self.max_detections,
        )
