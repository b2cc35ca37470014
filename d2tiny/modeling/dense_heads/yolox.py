"""Head of YOLOX (Ge et al., 2021): classes and boxes in separate towers, one prediction a place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import ConvBN
from d2tiny.modeling.dense_heads.common import DenseTargets
from d2tiny.modeling.dense_heads.yolo import Predicted, YOLOHead, flat
from d2tiny.modeling.losses import regression_loss
from d2tiny.modeling.priors import GridPriors
from d2tiny.utils.distributed import reduce_mean

__all__ = ["CornerCoder", "YOLOXHead"]

PRIOR_PROB = 0.01
_MAX_LOG = 10.0  # e¹⁰ strides; more would overflow half precision
_EPS = 1e-8


class CornerCoder:
    """Boxes from squares of the stride: centre = corner of the cell + p·stride (no half cell), size = exp(p)·stride."""

    def get_deltas(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """Encode (…, 4) XYXY boxes."""
        stride = priors[..., 2:] - priors[..., :2]
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        return torch.cat(((centre - priors[..., :2]) / stride, torch.log(size / stride + _EPS)), dim=-1)

    def apply_deltas(self, deltas: Tensor, priors: Tensor) -> Tensor:
        """Decode (…, 4) to XYXY px."""
        stride = priors[..., 2:] - priors[..., :2]
        centre = priors[..., :2] + deltas[..., :2] * stride
        half = deltas[..., 2:].clamp(max=_MAX_LOG).exp() * stride / 2
        return torch.cat((centre - half, centre + half), dim=-1)


class YOLOXHead(YOLOHead):
    """A 1×1 stem and two 3×3 convolutions each for classes and for boxes with objectness; shapes as in ``yolo.py``.

    Losses, each divided by the number of positives: ``box_weight`` × box loss, BCE of objectness over all places, BCE
    of classes over positives with the predicted box's IoU as target, and ``l1_weight`` × L1 of the encoded boxes,
    which the released recipe adds in its last epochs and SAL has throughout (SARL eq. 3).
    """

    def __init__(self, *, width: int, box_weight: float = 5.0, l1_weight: float = 0.0, **kwargs: Any) -> None:
        """Build the towers.

        Args:
            width: channels of the towers.
            box_weight: of the box loss.
            l1_weight: of L1.
            **kwargs: of :class:`YOLOHead`; YOLOX has SimOTA and 1 − IoU².
        """
        super().__init__(**kwargs)
        self.box_weight, self.l1_weight = box_weight, l1_weight
        self.coder = CornerCoder()

        def tower() -> nn.Sequential:
            return nn.Sequential(ConvBN(width, width, 3), ConvBN(width, width, 3))

        self.stems = nn.ModuleList(ConvBN(count, width) for count in self.in_channels)
        self.cls_towers = nn.ModuleList(tower() for _ in self.in_channels)
        self.box_towers = nn.ModuleList(tower() for _ in self.in_channels)
        self.cls_preds = nn.ModuleList(nn.Conv2d(width, self.num_classes, 1) for _ in self.in_channels)
        self.box_preds = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in self.in_channels)
        self.obj_preds = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in self.in_channels)
        for conv in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(conv.bias, -math.log((1 - PRIOR_PROB) / PRIOR_PROB))

    def forward(self, features: list[Tensor]) -> Predicted:
        """Return class logits, encoded boxes and objectness logits."""
        result: Predicted = [[], [], []]
        for i, feature in enumerate(features):
            x = self.stems[i](feature)
            cls, box = self.cls_towers[i](x), self.box_towers[i](x)
            result[0].append(flat(self.cls_preds[i](cls), self.num_classes))
            result[1].append(flat(self.box_preds[i](box), 4))
            result[2].append(flat(self.obj_preds[i](box), 1))
        return result

    def scores(self, outputs: Sequence[Tensor]) -> Tensor:
        """Class probability × objectness."""
        return outputs[0].sigmoid() * outputs[2].sigmoid()

    def boxes(self, outputs: Sequence[Tensor], anchors: Tensor, stride: Any) -> Tensor:
        """Decoded boxes."""
        return self.coder.apply_deltas(outputs[1], anchors)

    def losses(self, predictions: Predicted, priors: GridPriors, targets: DenseTargets) -> dict[str, Tensor]:
        """``loss_box_reg``, ``loss_obj``, ``loss_cls`` and, where it weighs, ``loss_l1``."""
        cls, deltas, obj = self.joined(predictions)
        valid, positive = self.positives(targets)
        image, index = positive.nonzero(as_tuple=True)
        count = reduce_mean(positive.sum().float()).clamp(min=1)
        anchors, boxes, said = priors.boxes()[index], targets.boxes[image, index], deltas[image, index]
        wanted = F.one_hot(targets.classes[image, index], self.num_classes) * targets.quality[image, index, None]
        box = regression_loss(self.box_loss, self.coder, said, anchors, boxes, avg_factor=count, groups=image)
        bce = F.binary_cross_entropy_with_logits
        losses = {
            "loss_box_reg": self.box_weight * box,
            "loss_obj": bce(obj[..., 0][valid], positive[valid].to(obj.dtype), reduction="sum") / count,
            "loss_cls": bce(cls[image, index], wanted.to(cls.dtype), reduction="sum") / count,
        }
        if self.l1_weight:
            error = (said - self.coder.get_deltas(anchors, boxes)).abs().sum()
            losses["loss_l1"] = self.l1_weight * error / count
        return losses
