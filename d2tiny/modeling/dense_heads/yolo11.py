"""Head of YOLO11: distances as distributions, no objectness (docs/papers/rs_tinynet.md#yolo11-baseline)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from detectron2.modeling.box_regression import Box2BoxTransformLinear
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import ConvBN
from d2tiny.modeling.contracts import DenseTargets, HeadOutputs
from d2tiny.modeling.dense_heads.yolo import YOLOHead, concatenated_upcast
from d2tiny.modeling.losses import dfl_loss, regression_loss
from d2tiny.modeling.priors import GridPriors
from d2tiny.utils.distributed import get_world_size, reduce_mean

__all__ = ["YOLO11Head"]

BINS = 16
_REFERENCE_SIZE = 640  # px, image size for which the biases of the class logits are initialised


def _last_bias(branch: nn.Module) -> Tensor:
    return cast(Tensor, cast(nn.Sequential, branch)[-1].bias)


class YOLO11Head(YOLOHead[DenseTargets]):
    """Boxes from two 3×3 convolutions, classes from two depth-wise separable ones; shapes as in ``yolo.py``.

    The distance of a side from the middle of the cell is the mean of a distribution over 0 … 15 strides. Losses are
    divided by the sum of the class targets (of all processes, at least 1) and multiplied by the number of images, as in
    the released recipe, whose learning rates are tuned for that.
    """

    def __init__(
        self, *, box_weight: float = 7.5, cls_weight: float = 0.5, dfl_weight: float = 1.5, **kwargs: Any
    ) -> None:
        """Build the branches.

        Args:
            box_weight: factor on the box loss.
            cls_weight: factor on the binary cross-entropy of the classes.
            dfl_weight: factor on the distribution focal loss.
            **kwargs: those of :class:`YOLOHead`; YOLO11 has TAL and 1 − CIoU.
        """
        super().__init__(**kwargs)
        in_channels, num_classes = self.in_channels, self.num_classes
        self.box_weight, self.cls_weight, self.dfl_weight = box_weight, cls_weight, dfl_weight
        self.box_coder = Box2BoxTransformLinear(normalize_by_size=True)
        box = max(16, in_channels[0] // 4, 4 * BINS)
        cls = max(in_channels[0], min(num_classes, 100))
        self.box_branches = nn.ModuleList(
            nn.Sequential(ConvBN(count, box, 3), ConvBN(box, box, 3), nn.Conv2d(box, 4 * BINS, 1))
            for count in in_channels
        )
        self.cls_branches = nn.ModuleList(
            nn.Sequential(
                ConvBN(count, count, 3, groups=count),
                ConvBN(count, cls),
                ConvBN(cls, cls, 3, groups=cls),
                ConvBN(cls, cls),
                nn.Conv2d(cls, num_classes, 1),
            )
            for count in in_channels
        )
        # A parameter although it is constant: the released models count it among their parameters.
        self.bins = nn.Parameter(torch.arange(BINS, dtype=torch.float32), requires_grad=False)
        for box_branch, cls_branch, stride in zip(self.box_branches, self.cls_branches, self.strides, strict=True):
            nn.init.constant_(_last_bias(box_branch), 1.0)
            nn.init.constant_(_last_bias(cls_branch), math.log(5 / num_classes / (_REFERENCE_SIZE / stride) ** 2))

    def forward(self, features: list[Tensor]) -> HeadOutputs:
        """Predict from feature maps, finest first; ``pred_deltas`` are logits of the distances (B, n, 4·16)."""
        logits, deltas = [], []
        for feature, cls, box in zip(features, self.cls_branches, self.box_branches, strict=True):
            logits.append(permute_to_N_HWA_K(cls(feature), self.num_classes))
            deltas.append(permute_to_N_HWA_K(box(feature), 4 * BINS))
        return HeadOutputs(logits, deltas)

    def scores(self, logits: Tensor, quality: Tensor | None) -> Tensor:
        """Return class probabilities (…, K); there is no objectness."""
        return logits.sigmoid()

    def distances(self, logits: Tensor) -> Tensor:
        """Return mean distances (…, 4) of left, top, right and bottom in strides from logits (…, 64)."""
        # A sum, not a matrix product, which autocast would round to half precision.
        return (logits.unflatten(-1, (4, BINS)).softmax(dim=-1) * self.bins.to(logits.dtype)).sum(dim=-1)

    def decode_boxes(self, deltas: Tensor, anchors: Tensor, stride: float | Tensor) -> Tensor:
        """Decode logits (…, n, 64) to (…, n, 4) XYXY in px; the anchors are squares of the stride."""
        distance = self.distances(deltas)
        anchors = anchors.expand(distance.shape)
        boxes: Tensor = self.box_coder.apply_deltas(distance.flatten(0, -2), anchors.flatten(0, -2))
        return boxes.view(distance.shape)

    @torch.no_grad()
    def targets(self, priors: GridPriors, instances: Sequence[Instances], outputs: HeadOutputs) -> DenseTargets:
        """Label the priors of each image by the current predictions."""
        return self.assign(priors, instances, outputs)

    def losses(self, outputs: HeadOutputs, priors: GridPriors, targets: DenseTargets) -> dict[str, Tensor]:
        """Return ``loss_box_reg``, ``loss_cls`` and ``loss_dfl``."""
        logits, deltas, _ = concatenated_upcast(outputs)
        valid, positive = self.valid_and_positive(targets)
        image, index = positive.nonzero(as_tuple=True)
        anchors, boxes = priors.boxes()[index], targets.boxes[image, index]
        weight, pred = targets.quality[image, index], deltas[image, index]
        cls_targets = torch.zeros_like(logits)
        cls_targets[image, index, targets.classes[image, index]] = weight.to(logits.dtype)
        ranks = get_world_size()
        avg_factor = reduce_mean(weight.sum()).clamp(min=1 / ranks)
        distance = self.box_coder.get_deltas(anchors, boxes) if len(index) else boxes.new_zeros(0, 4)
        dfl = dfl_loss(pred.unflatten(-1, (4, BINS)), distance)
        box = regression_loss(
            self.box_loss, self.box_coder, self.distances(pred), anchors, boxes,
            weight=weight, avg_factor=avg_factor, groups=image,
        )  # fmt: skip
        bce = F.binary_cross_entropy_with_logits(logits[valid], cls_targets[valid], reduction="sum")
        num_images = len(logits) * ranks  # of all processes, because gradients are averaged over them
        return {
            "loss_box_reg": self.box_weight * num_images * box,
            "loss_cls": self.cls_weight * num_images * bce / avg_factor,
            "loss_dfl": self.dfl_weight * num_images * (dfl * weight).sum() / avg_factor,
        }
