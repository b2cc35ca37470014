"""Head of YOLOX (Ge et al., 2021): decoupled towers for classes and boxes, one anchor point per cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.layers import ConvBN
from d2tiny.modeling.contracts import DenseTargets, HeadOutputs
from d2tiny.modeling.dense_heads.yolo import YOLOHead, concatenated_upcast
from d2tiny.modeling.losses import regression_loss
from d2tiny.modeling.priors import GridPriors
from d2tiny.utils.distributed import reduce_mean

__all__ = ["YOLOXBoxCoder", "YOLOXHead"]

PRIOR_PROB = 0.01
_MAX_LOG_SIZE = 10.0  # e¹⁰ strides; more would overflow half precision
_EPS = 1e-8


class YOLOXBoxCoder:
    """Codes boxes relative to cells: centre = top left corner of the cell + p·stride, size = exp(p)·stride."""

    def get_deltas(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """Encode XYXY boxes (…, 4) relative to priors (…, 4), squares of the stride."""
        stride = priors[..., 2:] - priors[..., :2]
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
        return torch.cat(((centre - priors[..., :2]) / stride, torch.log(size / stride + _EPS)), dim=-1)

    def apply_deltas(self, deltas: Tensor, priors: Tensor) -> Tensor:
        """Decode deltas (…, 4) relative to priors (…, 4) to XYXY in px."""
        stride = priors[..., 2:] - priors[..., :2]
        centre = priors[..., :2] + deltas[..., :2] * stride
        half = deltas[..., 2:].clamp(max=_MAX_LOG_SIZE).exp() * stride / 2
        return torch.cat((centre - half, centre + half), dim=-1)


class YOLOXHead(YOLOHead[DenseTargets]):
    """A 1×1 stem and two 3×3 convolutions each for classes and for boxes with objectness; shapes as in ``yolo.py``.

    Losses, each divided by the number of positives: ``box_weight`` × box loss, binary cross-entropy of objectness over
    all priors, binary cross-entropy of classes over positives with the predicted box's IoU as target, and ``l1_weight``
    × L1 of the encoded boxes, which the released recipe adds in its last epochs and SAL has throughout (SARL eq. 3).
    """

    def __init__(self, *, width: int, box_weight: float = 5.0, l1_weight: float = 0.0, **kwargs: Any) -> None:
        """Build the towers.

        Args:
            width: channels of the towers.
            box_weight: factor on the box loss.
            l1_weight: factor on L1 of the encoded boxes; 0 leaves it out.
            **kwargs: those of :class:`YOLOHead`; YOLOX has SimOTA and 1 − IoU².
        """
        super().__init__(**kwargs)
        self.box_weight, self.l1_weight = box_weight, l1_weight
        self.box_coder = YOLOXBoxCoder()

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

    def forward(self, features: list[Tensor]) -> HeadOutputs:
        """Predict from feature maps, finest first; ``pred_quality`` is the objectness."""
        logits, deltas, quality = [], [], []
        for i, feature in enumerate(features):
            x = self.stems[i](feature)
            cls, box = self.cls_towers[i](x), self.box_towers[i](x)
            logits.append(permute_to_N_HWA_K(self.cls_preds[i](cls), self.num_classes))
            deltas.append(permute_to_N_HWA_K(self.box_preds[i](box), 4))
            quality.append(permute_to_N_HWA_K(self.obj_preds[i](box), 1))
        return HeadOutputs(logits, deltas, quality)

    def scores(self, logits: Tensor, quality: Tensor | None) -> Tensor:
        """Return class probability × objectness, (…, K)."""
        assert quality is not None
        return logits.sigmoid() * quality.sigmoid()

    def decode_boxes(self, deltas: Tensor, anchors: Tensor, stride: float | Tensor) -> Tensor:
        """Decode (…, n, 4) to XYXY in px; the anchors are squares of the stride."""
        return self.box_coder.apply_deltas(deltas, anchors)

    @torch.no_grad()
    def targets(self, priors: GridPriors, instances: Sequence[Instances], outputs: HeadOutputs) -> DenseTargets:
        """Label the priors of each image by the current predictions."""
        return self.assign(priors, instances, outputs)

    def losses(self, outputs: HeadOutputs, priors: GridPriors, targets: DenseTargets) -> dict[str, Tensor]:
        """Return ``loss_box_reg``, ``loss_obj``, ``loss_cls`` and, with an ``l1_weight``, ``loss_l1``."""
        logits, deltas, objectness = concatenated_upcast(outputs)
        assert objectness is not None
        valid, positive = self.valid_and_positive(targets)
        image, index = positive.nonzero(as_tuple=True)
        num_positives = reduce_mean(positive.sum().float()).clamp(min=1)
        anchors, boxes, pred = priors.boxes()[index], targets.boxes[image, index], deltas[image, index]
        cls_targets = F.one_hot(targets.classes[image, index], self.num_classes) * targets.quality[image, index, None]
        box = regression_loss(
            self.box_loss, self.box_coder, pred, anchors, boxes, avg_factor=num_positives, groups=image
        )
        bce = F.binary_cross_entropy_with_logits
        obj_targets = positive[valid].to(objectness.dtype)
        losses = {
            "loss_box_reg": self.box_weight * box,
            "loss_obj": bce(objectness[..., 0][valid], obj_targets, reduction="sum") / num_positives,
            "loss_cls": bce(logits[image, index], cls_targets.to(logits.dtype), reduction="sum") / num_positives,
        }
        if self.l1_weight:
            error = (pred - self.box_coder.get_deltas(anchors, boxes)).abs().sum()
            losses["loss_l1"] = self.l1_weight * error / num_positives
        return losses
