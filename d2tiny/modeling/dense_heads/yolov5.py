"""Head of YOLOv5: anchors, matched by shape; one 1×1 convolution for each level (docs/papers/yolo.md#yolov5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from d2tiny.modeling.assigners import RatioAssigner
from d2tiny.modeling.contracts import HeadOutputs
from d2tiny.modeling.dense_heads.common import in_ignore_regions
from d2tiny.modeling.dense_heads.yolo import YOLOHead, concatenated_upcast
from d2tiny.modeling.losses import regression_loss
from d2tiny.modeling.priors import GridPriors
from d2tiny.modeling.targets import split_ignored
from d2tiny.ops.boxes import aligned_ciou, max_iof
from d2tiny.utils.distributed import get_world_size

__all__ = ["PairTargets", "YOLOv5BoxCoder", "YOLOv5Head"]

_REFERENCE_SIZE = 640  # px, image size for which gains and initial biases are given
_REFERENCE_CLASSES = 80  # number of classes for which ``cls_weight`` is given


@dataclass(frozen=True)
class PairTargets:
    """The P positive pairs of an anchor and an object in a batch; an anchor may be in several pairs.

    Attributes:
        image_idxs: (P,) int64, the pair's image.
        prior_idxs: (P,) int64, the pair's anchor.
        boxes: (P, 4) XYXY in px of the objects.
        classes: (P,) int64 of the objects.
        ignored: (B, N) boolean, anchors whose objectness is not learned.
    """

    image_idxs: Tensor
    prior_idxs: Tensor
    boxes: Tensor
    classes: Tensor
    ignored: Tensor


class YOLOv5BoxCoder:
    """Codes boxes relative to anchors: offset of the centres in strides, and factors on the anchor's sides."""

    def __init__(self, stride: float | Tensor) -> None:
        """Set the stride in px: one for all boxes, or (n,) for n boxes."""
        self._stride = stride[..., None] if isinstance(stride, Tensor) else stride

    def get_deltas(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """Encode XYXY boxes (…, n, 4) relative to anchors (…, n, 4)."""
        shift = (boxes[..., :2] + boxes[..., 2:] - priors[..., :2] - priors[..., 2:]) / 2 / self._stride
        return torch.cat((shift, (boxes[..., 2:] - boxes[..., :2]) / (priors[..., 2:] - priors[..., :2])), dim=-1)

    def apply_deltas(self, deltas: Tensor, priors: Tensor) -> Tensor:
        """Decode deltas (…, n, 4) relative to anchors (…, n, 4) to XYXY in px."""
        centre = (priors[..., :2] + priors[..., 2:]) / 2 + deltas[..., :2] * self._stride
        half = (priors[..., 2:] - priors[..., :2]) * deltas[..., 2:] / 2
        return torch.cat((centre - half, centre + half), dim=-1)


class YOLOv5Head(YOLOHead[PairTargets]):
    """Predicts 4 + 1 + K numbers for each of three anchors of a cell; shapes as in ``yolo.py``.

    Centres reach ± 1 stride from the middle of the cell, sides up to four times the anchor's (``(2σ)²``). Losses are
    the mean over each level's pairs (box, classes) or anchors (objectness, whose target is the CIoU, of several pairs
    the largest), summed over the levels with ``balance`` on objectness, with the released gains, and multiplied by the
    number of images.

    Differences from the released code: gains that depend on the image size take it from the feature maps of each batch;
    of several objects of one anchor the largest CIoU is the target, not the last.
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
            in_channels: channels of the levels, finest first.
            anchors: (width, height) in px of the anchors of each level, the same number on every level;
                ``d2tiny anchors`` fits them to a dataset.
            assigner: :class:`~d2tiny.modeling.assigners.RatioAssigner`, the only one that gives an anchor several
                objects.
            balance: factor on the objectness loss of each level.
            box_weight: gain of the box loss, for three levels.
            obj_weight: gain of the objectness loss, for images of 640 px.
            cls_weight: gain of the class loss, for 80 classes.
            **kwargs: those of :class:`YOLOHead`; YOLOv5 has 1 − CIoU.

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
        super().__init__(in_channels=in_channels, assigner=assigner, **kwargs)
        self._set_cell_anchors([torch.cat((-s / 2, s / 2), dim=1) for s in sizes])
        self.balance = list(balance)
        self.box_weight, self.obj_weight, self.cls_weight = box_weight, obj_weight, cls_weight
        num_anchors = len(sizes[0])
        convs = [nn.Conv2d(c, num_anchors * (self.num_classes + 5), 1) for c in in_channels]
        self.preds = nn.ModuleList(convs)
        for conv, stride in zip(convs, self.strides, strict=True):
            assert conv.bias is not None
            with torch.no_grad():
                bias = conv.bias.view(num_anchors, -1)
                bias[:, 4] += math.log(8 / (_REFERENCE_SIZE / stride) ** 2)
                bias[:, 5:] += math.log(0.6 / (self.num_classes - 0.99999))

    def forward(self, features: list[Tensor]) -> HeadOutputs:
        """Predict from feature maps, finest first; ``pred_quality`` is the objectness."""
        logits, deltas, quality = [], [], []
        for feature, conv in zip(features, self.preds, strict=True):
            output = permute_to_N_HWA_K(conv(feature), self.num_classes + 5)
            box, obj, cls = output.split((4, 1, self.num_classes), dim=-1)
            logits.append(cls)
            deltas.append(box)
            quality.append(obj)
        return HeadOutputs(logits, deltas, quality)

    def scores(self, logits: Tensor, quality: Tensor | None) -> Tensor:
        """Return class probability × objectness, (…, K)."""
        assert quality is not None
        return logits.sigmoid() * quality.sigmoid()

    @staticmethod
    def activate(logits: Tensor) -> Tensor:
        """Map raw box outputs (…, 4) to the deltas of the box coder: offsets in (-1, 1), factors in (0, 4)."""
        shift, size = logits.sigmoid().split(2, dim=-1)
        return torch.cat((2 * shift - 1, (2 * size) ** 2), dim=-1)

    def decode_boxes(self, deltas: Tensor, anchors: Tensor, stride: float | Tensor) -> Tensor:
        """Decode raw box outputs (…, n, 4) to XYXY in px."""
        return YOLOv5BoxCoder(stride).apply_deltas(self.activate(deltas), anchors)

    @torch.no_grad()
    def targets(
        self, priors: GridPriors, instances: Sequence[Instances], outputs: HeadOutputs | None = None
    ) -> PairTargets:
        """Match each image's objects by shape; ignore regions are where ``gt_ignore`` is set, outputs are not used."""
        pairs, ignored = [], []
        for i, image in enumerate(instances):
            objects, regions = split_ignored(image)
            gt = objects.gt_boxes.tensor
            with_area = ((gt[:, 2:] - gt[:, :2]) > 0).all(dim=1).nonzero().flatten()
            matches = self.assigner.pairs(priors, gt[with_area])
            index = with_area[matches.gt]
            pairs.append((torch.full_like(index, i), matches.prior, gt[index], objects.gt_classes[index]))
            ignored.append(self._ignored(priors, regions, matches.prior))
        image_idxs, prior_idxs, boxes, classes = (torch.cat(part) for part in zip(*pairs, strict=True))
        return PairTargets(image_idxs, prior_idxs, boxes, classes, torch.stack(ignored))

    def _ignored(self, priors: GridPriors, regions: Tensor, positive_idxs: Tensor) -> Tensor:
        """Return an (N,) mask of the priors in ignore regions that are not positive."""
        mask = torch.zeros(len(priors), dtype=torch.bool, device=regions.device)
        if len(regions) and self.assigner.ignore_iof_thresh < 1:
            mask = max_iof(priors.boxes(), regions.float()) > self.assigner.ignore_iof_thresh
            mask |= in_ignore_regions(priors, regions)
        mask[positive_idxs] = False
        return mask

    def losses(self, outputs: HeadOutputs, priors: GridPriors, targets: PairTargets) -> dict[str, Tensor]:
        """Return ``loss_box_reg``, ``loss_obj`` and ``loss_cls``."""
        logits, deltas, objectness = concatenated_upcast(outputs)
        assert objectness is not None
        image, prior = targets.image_idxs, targets.prior_idxs
        counts = [len(level) for level in priors.level_boxes]
        level = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(prior.device)
        anchors, stride, pair_level = priors.boxes()[prior], priors.strides()[prior], level[prior]
        # One sum over all levels: each pair weighs 1 / the number of pairs of its level.
        pair_weight = 1 / torch.bincount(pair_level, minlength=len(counts)).clamp(min=1)[pair_level].to(deltas.dtype)
        coder, pred = YOLOv5BoxCoder(stride), self.activate(deltas[image, prior])
        box = regression_loss(
            self.box_loss, coder, pred, anchors, targets.boxes, weight=pair_weight, avg_factor=1.0, groups=image
        )
        obj_targets = torch.zeros_like(objectness[..., 0])
        overlap = aligned_ciou(coder.apply_deltas(pred.detach(), anchors), targets.boxes).clamp(0, 1)
        flat_index = image * len(level) + prior
        obj_targets.view(-1).scatter_reduce_(0, flat_index, overlap.to(obj_targets.dtype), "amax")
        valid = ~targets.ignored
        num_valid = torch.stack([valid[:, level == i].sum() for i in range(len(counts))]).clamp(min=1)
        level_weight = torch.tensor(self.balance, device=objectness.device) / num_valid
        bce = F.binary_cross_entropy_with_logits
        obj = bce(objectness[..., 0], obj_targets, reduction="none") * valid * level_weight[level]
        onehot = F.one_hot(targets.classes, self.num_classes).to(logits.dtype)
        cls = bce(logits[image, prior], onehot, reduction="none").mean(dim=1) * pair_weight
        # Of all processes: gradients are averaged over them, and each has means of its own.
        num_images, levels_gain = len(logits) * get_world_size(), 3 / len(counts)
        image_area = counts[0] / len(priors.levels[0].cell_anchors) * self.strides[0] ** 2 / _REFERENCE_SIZE**2
        return {
            "loss_box_reg": num_images * self.box_weight * levels_gain * box,
            "loss_obj": num_images * self.obj_weight * image_area * levels_gain * obj.sum(),
            "loss_cls": num_images * self.cls_weight * self.num_classes / _REFERENCE_CLASSES * levels_gain * cls.sum(),
        }
