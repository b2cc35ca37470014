"""Head of YOLOv5 (SPEC §8.2): anchors, matched by shape; one 1×1 convolution a level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.modeling.assigners import RatioAssigner
from d2tiny.modeling.dense_heads.common import ignored_places
from d2tiny.modeling.dense_heads.yolo import Predicted, YOLOHead, flat
from d2tiny.modeling.losses import regression_loss
from d2tiny.modeling.priors import GridPriors
from d2tiny.modeling.targets import split_ignored
from d2tiny.ops.boxes import aligned_ciou, max_iof
from d2tiny.utils.distributed import get_world_size

__all__ = ["AnchorPairs", "SigmoidCoder", "YOLOv5Head"]

_REFERENCE = 640  # px, the image for which gains and first scores are set
_CLASSES = 80  # likewise


@dataclass(frozen=True)
class AnchorPairs:
    """Who learns whom; an anchor may learn several objects.

    Attributes:
        image: (P,) int64.
        prior: (P,) int64.
        boxes: (P, 4) XYXY of the objects.
        classes: (P,) int64.
        ignored: (B, N) boolean, places whose objectness is not learned.
    """

    image: Tensor
    prior: Tensor
    boxes: Tensor
    classes: Tensor
    ignored: Tensor


class SigmoidCoder:
    """Boxes from anchors: offset of the centre from the cell's middle in strides, and factors of the anchor's sides."""

    def __init__(self, stride: Any) -> None:
        """Set the stride, px, of all or of each of the boxes (n,)."""
        self._stride = stride[..., None] if isinstance(stride, Tensor) else stride

    def get_deltas(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """Encode (…, n, 4) XYXY boxes."""
        shift = (boxes[..., :2] + boxes[..., 2:] - priors[..., :2] - priors[..., 2:]) / 2 / self._stride
        return torch.cat((shift, (boxes[..., 2:] - boxes[..., :2]) / (priors[..., 2:] - priors[..., :2])), dim=-1)

    def apply_deltas(self, deltas: Tensor, priors: Tensor) -> Tensor:
        """Decode (…, n, 4) to XYXY px."""
        centre = (priors[..., :2] + priors[..., 2:]) / 2 + deltas[..., :2] * self._stride
        half = (priors[..., 2:] - priors[..., :2]) * deltas[..., 2:] / 2
        return torch.cat((centre - half, centre + half), dim=-1)


class YOLOv5Head(YOLOHead):
    """Predicts 4 + 1 + K numbers for each of three anchors a cell; shapes as in ``yolo.py``.

    Centres reach ± 1 stride from the cell's middle, sides up to four times the anchor's (``(2σ)²``). Losses: the mean
    of each level over its pairs (box, classes) or places (objectness, whose target is the CIoU, of several pairs the
    largest), added over the levels with ``balance`` on objectness, with the released gains and × the number of
    images.

    Differences from the released code: gains that go with the image's size take it from the maps of each batch; of
    several objects of one anchor the largest CIoU is the target, not the last.
    """

    assigner: RatioAssigner

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        anchors: Sequence[Sequence[Sequence[float]]],
        assigner: RatioAssigner,
        balance: Sequence[float] = (4.0, 1.0, 0.4),
        box_weight: float = 0.05,
        obj_weight: float = 1.0,
        cls_weight: float = 0.5,
        **kwargs: Any,
    ) -> None:
        """Build the convolutions.

        Args:
            in_channels: of the levels, finest first.
            anchors: for each level as many (width, height) px; ``d2tiny anchors`` fits them to a dataset.
            assigner: :class:`~d2tiny.modeling.assigners.RatioAssigner`, the only one that shares anchors.
            balance: of the objectness of each level.
            box_weight: gain of the box loss for three levels.
            obj_weight: gain of objectness for images of 640 px.
            cls_weight: gain of classes for 80 of them.
            **kwargs: of :class:`YOLOHead`; YOLOv5 has 1 − CIoU.

        Raises:
            ValueError: numbers of levels or anchors differ, a side is not positive, or another assigner.
        """
        sizes = [torch.tensor([[float(side) for side in anchor] for anchor in level]) for level in anchors]
        if not len(sizes) == len(balance) == len(in_channels):
            raise ValueError(
                f"YOLOv5Head: {len(in_channels)} in_channels, {len(sizes)} levels of anchors, {len(balance)} balance."
            )
        if any(s.dim() != 2 or s.shape != sizes[0].shape or s.shape[1] != 2 or bool((s <= 0).any()) for s in sizes):
            raise ValueError(
                "YOLOv5Head: anchors are [[[width, height], …], …], as many on each level, in positive px."
            )
        if not isinstance(assigner, RatioAssigner):
            raise ValueError(
                f"YOLOv5Head: anchors may learn several objects, which {type(assigner).__name__} does not say; "
                "use RatioAssigner, or the head of YOLOX or YOLO11."
            )
        cells = [torch.cat((-s / 2, s / 2), dim=1) for s in sizes]
        super().__init__(in_channels=in_channels, assigner=assigner, cells=cells, **kwargs)
        num_classes = self.num_classes
        self.balance = list(balance)
        self.box_weight, self.obj_weight, self.cls_weight = box_weight, obj_weight, cls_weight
        count = len(sizes[0])
        convs = [nn.Conv2d(c, count * (num_classes + 5), 1) for c in in_channels]
        self.preds = nn.ModuleList(convs)
        for conv, stride in zip(convs, self.strides, strict=True):
            assert conv.bias is not None
            with torch.no_grad():
                bias = conv.bias.view(count, -1)
                bias[:, 4] += math.log(8 / (_REFERENCE / stride) ** 2)
                bias[:, 5:] += math.log(0.6 / (num_classes - 0.99999))

    def forward(self, features: list[Tensor]) -> Predicted:
        """Return class logits, box logits and objectness logits."""
        result: Predicted = [[], [], []]
        for feature, conv in zip(features, self.preds, strict=True):
            box, obj, cls = flat(conv(feature), self.num_classes + 5).split((4, 1, self.num_classes), dim=-1)
            for levels, output in zip(result, (cls, box, obj), strict=True):
                levels.append(output)
        return result

    def scores(self, outputs: Sequence[Tensor]) -> Tensor:
        """Class probability × objectness."""
        return outputs[0].sigmoid() * outputs[2].sigmoid()

    @staticmethod
    def encoded(logits: Tensor) -> Tensor:
        """(…, 4) what :class:`SigmoidCoder` takes: offset in (-1, 1), factors in (0, 4)."""
        shift, size = logits.sigmoid().split(2, dim=-1)
        return torch.cat((2 * shift - 1, (2 * size) ** 2), dim=-1)

    def boxes(self, outputs: Sequence[Tensor], anchors: Tensor, stride: Any) -> Tensor:
        """Decoded boxes."""
        return SigmoidCoder(stride).apply_deltas(self.encoded(outputs[1]), anchors)

    @torch.no_grad()
    def targets(self, priors: GridPriors, instances: Sequence[Instances], predictions: Any = None) -> AnchorPairs:
        """Match each image's objects by shape; ignore regions are where ``gt_ignore`` is set."""
        parts, ignored = [], []
        for i, given in enumerate(instances):
            objects, regions = split_ignored(given)
            gt = objects.gt_boxes.tensor
            whole = ((gt[:, 2:] - gt[:, :2]) > 0).all(dim=1).nonzero().flatten()
            found = self.assigner.pairs(priors, gt[whole])
            index = whole[found.gt]
            parts.append((torch.full_like(index, i), found.prior, gt[index], objects.gt_classes[index]))
            inside = torch.zeros(len(priors), dtype=torch.bool, device=gt.device)
            if len(regions) and self.assigner.ignore_iof_thresh < 1:
                inside = max_iof(priors.boxes(), regions.float()) > self.assigner.ignore_iof_thresh
                inside |= ignored_places(priors, regions)
            inside[found.prior] = False
            ignored.append(inside)
        image, prior, boxes, classes = (torch.cat(part) for part in zip(*parts, strict=True))
        return AnchorPairs(image, prior, boxes, classes, torch.stack(ignored))

    def losses(self, predictions: Predicted, priors: GridPriors, targets: AnchorPairs) -> dict[str, Tensor]:
        """``loss_box_reg``, ``loss_obj``, ``loss_cls``."""
        cls, logits, obj = self.joined(predictions)
        image, prior = targets.image, targets.prior
        counts = [len(level) for level in priors.level_boxes]
        level = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(prior.device)
        anchors, stride, own = priors.boxes()[prior], priors.strides()[prior], level[prior]
        # One sum over all levels: each pair weighs 1 / the pairs of its level.
        share = 1 / torch.bincount(own, minlength=len(counts)).clamp(min=1)[own].to(logits.dtype)
        coder, said = SigmoidCoder(stride), self.encoded(logits[image, prior])
        box = regression_loss(
            self.box_loss, coder, said, anchors, targets.boxes, weight=share, avg_factor=1.0, groups=image
        )
        wanted = torch.zeros_like(obj[..., 0])
        overlap = aligned_ciou(coder.apply_deltas(said.detach(), anchors), targets.boxes).clamp(0, 1)
        flat_index = image * len(level) + prior
        wanted.view(-1).scatter_reduce_(0, flat_index, overlap.to(wanted.dtype), "amax")
        valid = ~targets.ignored
        places = torch.stack([valid[:, level == i].sum() for i in range(len(counts))]).clamp(min=1)
        weight = torch.tensor(self.balance, device=obj.device) / places
        bce = F.binary_cross_entropy_with_logits
        objectness = bce(obj[..., 0], wanted, reduction="none") * valid * weight[level]
        onehot = F.one_hot(targets.classes, self.num_classes).to(cls.dtype)
        classes = bce(cls[image, prior], onehot, reduction="none").mean(dim=1) * share
        # Images of the whole batch: gradients are averaged over the processes, each with means of its own.
        images, levels = len(cls) * get_world_size(), 3 / len(counts)
        size = counts[0] / len(priors.levels[0].cells) * self.strides[0] ** 2 / _REFERENCE**2
        return {
            "loss_box_reg": images * self.box_weight * levels * box,
            "loss_obj": images * self.obj_weight * size * levels * objectness.sum(),
            "loss_cls": images * self.cls_weight * self.num_classes / _CLASSES * levels * classes.sum(),
        }
