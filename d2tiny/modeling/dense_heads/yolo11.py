"""Head of YOLO11 (SPEC §7.1): distances as distributions, classes without objectness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.box_regression import Box2BoxTransformLinear
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import ConvBN
from d2tiny.modeling.dense_heads.common import DenseTargets
from d2tiny.modeling.dense_heads.yolo import Predicted, YOLOHead, flat
from d2tiny.modeling.losses import dfl_loss, regression_loss
from d2tiny.modeling.priors import GridPriors
from d2tiny.utils.distributed import get_world_size, reduce_mean

__all__ = ["YOLO11Head"]

BINS = 16
_REFERENCE = 640  # px, the image for which the first class scores are set


def _last(branch: Any) -> Any:
    return branch[-1]


class YOLO11Head(YOLOHead):
    """Boxes from two 3×3 convolutions, classes from two depth-wise separable ones; shapes as in ``yolo.py``.

    A side's distance from the middle of the cell is the mean of a distribution over 0 … 15 strides. Losses are
    divided by the sum of the class targets (all processes, at least 1) and multiplied by the number of images, as the
    released recipe has it: learning rates are for that.
    """

    def __init__(
        self, *, box_weight: float = 7.5, cls_weight: float = 0.5, dfl_weight: float = 1.5, **kwargs: Any
    ) -> None:
        """Build the branches.

        Args:
            box_weight: of the box loss.
            cls_weight: of the classes' BCE.
            dfl_weight: of the distribution focal loss.
            **kwargs: of :class:`YOLOHead`; YOLO11 has TAL and 1 − CIoU.
        """
        super().__init__(**kwargs)
        in_channels, num_classes = self.in_channels, self.num_classes
        self.box_weight, self.cls_weight, self.dfl_weight = box_weight, cls_weight, dfl_weight
        self.coder = Box2BoxTransformLinear(normalize_by_size=True)
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
        # Released models count these fixed numbers as parameters.
        self.bins = nn.Parameter(torch.arange(BINS, dtype=torch.float32), requires_grad=False)
        for box_branch, cls_branch, stride in zip(self.box_branches, self.cls_branches, self.strides, strict=True):
            nn.init.constant_(_last(box_branch).bias, 1.0)
            nn.init.constant_(_last(cls_branch).bias, math.log(5 / num_classes / (_REFERENCE / stride) ** 2))

    def forward(self, features: list[Tensor]) -> Predicted:
        """Return class logits and the logits of the distances (B, n, 4·16)."""
        result: Predicted = [[], []]
        for feature, cls, box in zip(features, self.cls_branches, self.box_branches, strict=True):
            result[0].append(flat(cls(feature), self.num_classes))
            result[1].append(flat(box(feature), 4 * BINS))
        return result

    def scores(self, outputs: Sequence[Tensor]) -> Tensor:
        """Class probabilities."""
        return outputs[0].sigmoid()

    def distances(self, logits: Tensor) -> Tensor:
        """(…, 4) mean distances in strides, of left, top, right and bottom, from (…, 64)."""
        # A sum, not a matrix product, which autocast would round to half precision.
        return (logits.unflatten(-1, (4, BINS)).softmax(dim=-1) * self.bins.to(logits.dtype)).sum(dim=-1)

    def boxes(self, outputs: Sequence[Tensor], anchors: Tensor, stride: Any) -> Tensor:
        """Decoded boxes."""
        distance = self.distances(outputs[1])
        anchors = anchors.expand(distance.shape)
        return self.coder.apply_deltas(distance.flatten(0, -2), anchors.flatten(0, -2)).view(distance.shape)

    def losses(self, predictions: Predicted, priors: GridPriors, targets: DenseTargets) -> dict[str, Tensor]:
        """``loss_box_reg``, ``loss_cls``, ``loss_dfl``."""
        cls, logits = self.joined(predictions)
        valid, positive = self.positives(targets)
        image, index = positive.nonzero(as_tuple=True)
        anchors, boxes = priors.boxes()[index], targets.boxes[image, index]
        weight, said = targets.quality[image, index], logits[image, index]
        wanted = torch.zeros_like(cls)
        wanted[image, index, targets.classes[image, index]] = weight.to(cls.dtype)
        ranks = get_world_size()
        total = reduce_mean(weight.sum()).clamp(min=1 / ranks)
        distance = self.coder.get_deltas(anchors, boxes) if len(index) else boxes.new_zeros(0, 4)
        dfl = dfl_loss(said.unflatten(-1, (4, BINS)), distance)
        box = regression_loss(
            self.box_loss, self.coder, self.distances(said), anchors, boxes,
            weight=weight, avg_factor=total, groups=image,
        )  # fmt: skip
        score = F.binary_cross_entropy_with_logits(cls[valid], wanted[valid], reduction="sum")
        images = len(cls) * ranks  # of the whole batch: gradients are averaged over the processes
        return {
            "loss_box_reg": self.box_weight * images * box,
            "loss_cls": self.cls_weight * images * score / total,
            "loss_dfl": self.dfl_weight * images * (dfl * weight).sum() / total,
        }
