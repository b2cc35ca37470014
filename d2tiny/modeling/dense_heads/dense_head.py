"""Head of FCOS and RetinaNet with any priors, label assigner and box loss.

Shapes: B images, N = Σ_levels H·W·A priors of an image in (level, row, column, anchor) order, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Instances
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.modeling.assigners import Assigner
from d2tiny.modeling.contracts import DenseTargets, HeadOutputs
from d2tiny.modeling.dense_heads.base import BaseDenseHead
from d2tiny.modeling.dense_heads.common import LevelPredictions, assign_targets
from d2tiny.modeling.losses import BoxLoss, regression_loss
from d2tiny.modeling.priors import GridPriors, grid_from_generator
from d2tiny.utils.distributed import reduce_mean

__all__ = ["TinyDenseHead", "centerness"]

# Lower limit of a point's distance to a side, px: a point outside its object (HLA allows that) still has a centerness.
_MIN_DISTANCE = 0.01


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Compute √(min(l,r)/max(l,r) · min(t,b)/max(t,b)) of points in boxes (FCOS eq. 3, clamped as in RFLA's code).

    Args:
        points: (P, 2) x, y in px.
        boxes: (P, 4) XYXY in px.

    Returns:
        (P,) in (0, 1].
    """
    left_top, right_bottom = points - boxes[:, :2], boxes[:, 2:] - points
    smaller = torch.minimum(left_top, right_bottom).clamp(min=_MIN_DISTANCE)
    return (smaller / torch.maximum(left_top, right_bottom).clamp(min=_MIN_DISTANCE)).prod(dim=1).sqrt()


class TinyDenseHead(BaseDenseHead[DenseTargets]):
    """Classifies every prior with focal loss and regresses boxes from the positive ones.

    With three outputs of ``net`` (class, box, centerness) it is FCOS: box losses are weighted by the target centerness
    and scores multiplied by the predicted one. With two outputs it is RetinaNet.
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
            net: maps a list of features to lists of (B, A·K, H, W), (B, A·4, H, W) and, for FCOS, (B, A, H, W); for
                example Detectron2's ``FCOSHead`` or ``RetinaNetHead``.
            anchor_generator: the anchors of box regression; for points, squares of the stride around them.
            assigner: labels the priors.
            box_loss: on encoded deltas or decoded boxes, as its ``space`` says.
            box2box_transform: the box coder, Detectron2's ``Box2BoxTransform`` or ``Box2BoxTransformLinear``.
            assign_generator: other priors for the assigner (receptive fields around the points), in the same number
                and order as those of ``anchor_generator``.
            focal_alpha: weight of positives in the focal loss.
            focal_gamma: exponent of the focal loss.
            score_thresh: class probabilities must be above it, in [0, 1).
            nms_thresh: IoU above which the detection with the lower score is removed, in [0, 1].
            pre_nms_topk: number of priors of a level that are decoded, by their best score.
            max_detections: most detections of an image.

        Raises:
            ValueError: a threshold or a number outside its range.
        """
        super().__init__(
            num_classes=num_classes,
            assigner=assigner,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            pre_nms_topk=pre_nms_topk,
            max_detections=max_detections,
        )
        self.net, self.box_loss = net, box_loss
        self.anchor_generator, self.assign_generator = anchor_generator, assign_generator
        self.box2box_transform = box2box_transform
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma

    def forward(self, features: list[Tensor]) -> HeadOutputs:
        """Predict from feature maps (B, C, H_l, W_l), finest first; ``pred_quality`` is the centerness."""
        logits, deltas, *quality = self.net(features)
        return HeadOutputs(
            [permute_to_N_HWA_K(level, self.num_classes) for level in logits],
            [permute_to_N_HWA_K(level, 4) for level in deltas],
            [permute_to_N_HWA_K(level, 1) for level in quality[0]] if quality else None,
        )

    def priors(self, features: Sequence[Tensor], *, assign: bool = False) -> GridPriors:
        """Return the priors on these maps: those of box regression, or with ``assign`` those of label assignment."""
        generator = self.assign_generator if assign and self.assign_generator is not None else self.anchor_generator
        return grid_from_generator(generator, features)

    @torch.no_grad()
    def targets(
        self, priors: GridPriors, instances: Sequence[Instances], outputs: HeadOutputs | None = None
    ) -> DenseTargets:
        """Label the priors of each image by their geometry alone; ``outputs`` are not used."""
        return assign_targets(self.assigner, priors, instances, self.num_classes)

    def losses(self, outputs: HeadOutputs, priors: GridPriors, targets: DenseTargets) -> dict[str, Tensor]:
        """Return ``loss_cls``, ``loss_box_reg`` and, for FCOS, ``loss_centerness``.

        Each is divided by the number of positives over all processes, ``loss_box_reg`` of FCOS by the sum of their
        centerness.
        """
        logits, deltas, quality = outputs.concatenated()
        logits, deltas = logits.float(), deltas.float()
        valid, positive = self.valid_and_positive(targets)
        image, index = positive.nonzero(as_tuple=True)
        num_positives = reduce_mean(positive.sum().float()).clamp(min=1)
        gt_classes = F.one_hot(targets.classes[valid], self.num_classes + 1)[:, :-1].to(logits.dtype)
        focal = sigmoid_focal_loss(
            logits[valid], gt_classes, alpha=self.focal_alpha, gamma=self.focal_gamma, reduction="sum"
        )
        losses = {"loss_cls": focal / num_positives}
        anchors, boxes = priors.boxes()[index], targets.boxes[image, index]
        weight, avg_factor = None, num_positives
        if quality is not None:
            weight = centerness((anchors[:, :2] + anchors[:, 2:]) / 2, boxes)
            avg_factor = reduce_mean(weight.sum()).clamp(min=1e-6)
            bce = F.binary_cross_entropy_with_logits(quality.float()[image, index, 0], weight, reduction="sum")
            losses["loss_centerness"] = bce / num_positives
        losses["loss_box_reg"] = regression_loss(
            self.box_loss,
            self.box2box_transform,
            deltas[image, index],
            anchors,
            boxes,
            weight=weight,
            avg_factor=avg_factor,
            groups=image,
        )
        return losses

    def predict_level(self, outputs: HeadOutputs, priors: GridPriors, image: int, level: int) -> LevelPredictions:
        """Return scores (class probability, × centerness of FCOS) and box decoder of one level of one image."""
        logits, deltas, quality = outputs.of_image(image, level)
        anchors, stride = priors.level_boxes[level], priors.levels[level].stride

        def decode_boxes(index: Tensor) -> Tensor:
            return self.decode_boxes(deltas.float()[index], anchors[index], stride)

        scores = self.level_scores(logits.float(), None if quality is None else quality.float())
        return LevelPredictions(decode_boxes, *scores)

    def level_scores(self, logits: Tensor, quality: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return scores (…, K), and what must be above the threshold: as in FCOS, the class probability alone."""
        probability = logits.sigmoid()
        return probability if quality is None else probability * quality.sigmoid(), probability

    def decode_boxes(self, deltas: Tensor, anchors: Tensor, stride: float | Tensor) -> Tensor:
        """Decode boxes (n, 4) relative to anchors (n, 4) to XYXY in px."""
        boxes: Tensor = self.box2box_transform.apply_deltas(deltas, anchors)
        return boxes
