"""Base class of the heads of YOLOX, YOLOv5 and YOLO11.

Shapes: B images, N = Σ_levels H·W·A priors of an image in (level, row, column, anchor) order, K classes.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch import Tensor

from d2tiny.modeling.assigners import Assigner
from d2tiny.modeling.contracts import DenseTargets, HeadOutputs, TargetsT
from d2tiny.modeling.dense_heads.base import BaseDenseHead
from d2tiny.modeling.dense_heads.common import LevelPredictions, assign_targets
from d2tiny.modeling.losses import BoxLoss
from d2tiny.modeling.priors import GridLevel, GridPriors
from d2tiny.utils.tensors import upcast

__all__ = ["YOLOHead", "concatenated_upcast"]


def concatenated_upcast(outputs: HeadOutputs) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return logits, deltas and quality of all levels, (B, N, …), in float32 (float64 stays)."""
    logits, deltas, quality = outputs.concatenated()
    return upcast(logits), upcast(deltas), None if quality is None else upcast(quality)


class YOLOHead(BaseDenseHead[TargetsT]):
    """Priors in the middle of the cells and label assignment by predictions.

    Network, losses and box coding are the subclass's.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: Sequence[int],
        assigner: Assigner,
        box_loss: BoxLoss,
        strides: Sequence[int] = (8, 16, 32),
        score_thresh: float = 0.01,
        nms_thresh: float = 0.65,
        pre_nms_topk: int = 3000,
        max_detections: int = 1500,
    ) -> None:
        """Set what the heads share.

        Args:
            num_classes: K.
            in_channels: channels of the levels, finest first.
            assigner: labels the priors.
            box_loss: on encoded deltas or decoded boxes, as its ``space`` says.
            strides: of the levels, px.
            score_thresh: scores of detections must be above it, in [0, 1).
            nms_thresh: IoU above which the detection with the lower score is removed, in [0, 1].
            pre_nms_topk: number of priors of a level that are decoded, by their best score.
            max_detections: most detections of an image.

        Raises:
            ValueError: numbers of levels differ, or a threshold outside its range.
        """
        if len(in_channels) != len(strides) or not strides:
            raise ValueError(f"{type(self).__name__}: {len(in_channels)} in_channels and {len(strides)} strides.")
        super().__init__(
            num_classes=num_classes,
            assigner=assigner,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            pre_nms_topk=pre_nms_topk,
            max_detections=max_detections,
        )
        self.in_channels, self.strides, self.box_loss = list(in_channels), list(strides), box_loss
        self._set_cell_anchors([torch.tensor([[-s / 2, -s / 2, s / 2, s / 2]]) for s in strides])

    def _set_cell_anchors(self, cell_anchors: Sequence[Tensor]) -> None:
        """Set the boxes (A, 4) around the middle of a cell, for each level."""
        for i, anchors in enumerate(cell_anchors):
            self.register_buffer(f"_cell_anchors{i}", anchors, persistent=False)

    def priors(self, features: Sequence[Tensor], *, assign: bool = False) -> GridPriors:
        """Return the priors on these maps; regression and label assignment have the same."""
        return GridPriors(
            [
                GridLevel(stride, level.shape[-2], level.shape[-1], getattr(self, f"_cell_anchors{i}"), 0.5)
                for i, (stride, level) in enumerate(zip(self.strides, features, strict=True))
            ]
        )

    @abc.abstractmethod
    def scores(self, logits: Tensor, quality: Tensor | None) -> Tensor:
        """Return scores (…, K) in [0, 1] from class logits (…, K) and objectness logits (…, 1)."""

    def level_scores(self, logits: Tensor, quality: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return scores (…, K), and what must be above the threshold: the same."""
        scores = self.scores(logits, quality)
        return scores, scores

    @abc.abstractmethod
    def decode_boxes(self, deltas: Tensor, anchors: Tensor, stride: float | Tensor) -> Tensor:
        """Decode boxes.

        Args:
            deltas: (…, n, 4) or (…, n, 4 · bins) raw box outputs.
            anchors: (n, 4) XYXY in px.
            stride: of the anchors in px, one or (n,).

        Returns:
            (…, n, 4) XYXY in px.
        """

    def assign(self, priors: GridPriors, instances: Sequence[Instances], outputs: HeadOutputs) -> DenseTargets:
        """Label the priors of each image with the assigner, which may look at boxes and scores predicted now."""
        logits, deltas, quality = concatenated_upcast(outputs)
        boxes = self.decode_boxes(deltas.detach(), priors.boxes(), priors.strides())
        scores = self.scores(logits.detach(), None if quality is None else quality.detach())
        return assign_targets(self.assigner, priors, instances, self.num_classes, (boxes, scores), points=True)

    def predict_level(self, outputs: HeadOutputs, priors: GridPriors, image: int, level: int) -> LevelPredictions:
        """Return scores and box decoder of one level of one image."""
        logits, deltas, quality = outputs.of_image(image, level)
        anchors, stride = priors.level_boxes[level], self.strides[level]

        def decode_boxes(index: Tensor) -> Tensor:
            return self.decode_boxes(deltas.float()[index], anchors[index], stride)

        return LevelPredictions(decode_boxes, self.scores(logits.float(), None if quality is None else quality.float()))
