"""What the heads of YOLOX, YOLOv5 and YOLO11 share.

Shapes: B images, N = Σ_levels H·W·A priors of an image in (level, row, column, anchor) order, K classes. Predictions
are lists of outputs of lists of levels (B, H·W·A, channels).
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import cat
from detectron2.structures import Instances
from torch import Tensor, nn

from d2tiny.modeling.assigners import Assigner
from d2tiny.modeling.dense_heads.common import (
    DenseTargets,
    LevelScores,
    assign_targets,
    check_selection,
    detections_of_levels,
)
from d2tiny.modeling.losses import BoxLoss
from d2tiny.modeling.priors import GridLevel, GridPriors

__all__ = ["YOLOHead", "flat"]

Predicted = list[list[Tensor]]


def flat(level: Tensor, channels: int) -> Tensor:
    """(B, A·C, H, W) to (B, H·W·A, C)."""
    batch, _, height, width = level.shape
    level = level.view(batch, -1, channels, height, width)
    return level.permute(0, 3, 4, 1, 2).reshape(batch, -1, channels)


class YOLOHead(nn.Module, abc.ABC):
    """Priors, targets from predictions, and detections; networks, losses and box coding are the subclasses'."""

    outputs: tuple[int, ...]  # channels of each output for one prior

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
        cells: Sequence[Tensor] | None = None,
    ) -> None:
        """Set what all heads have.

        Args:
            num_classes: K.
            in_channels: of the levels, finest first.
            assigner: labels the priors.
            box_loss: of encoded or decoded boxes, as it wants.
            strides: of the levels, px.
            score_thresh: scores of detections must be above it.
            nms_thresh: IoU above which the worse detection of a class goes.
            pre_nms_topk: priors of a level that are decoded, by their best score.
            max_detections: of an image.
            cells: (A, 4) boxes round the middle of a cell for each level; None takes one square of the stride.

        Raises:
            ValueError: numbers of levels differ, or a threshold outside its range.
        """
        super().__init__()
        if len(in_channels) != len(strides) or not strides:
            raise ValueError(f"{type(self).__name__}: {len(in_channels)} in_channels and {len(strides)} strides.")
        check_selection(type(self).__name__, score_thresh, nms_thresh, pre_nms_topk, max_detections)
        self.num_classes, self.in_channels, self.strides = num_classes, list(in_channels), list(strides)
        self.assigner, self.box_loss = assigner, box_loss
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.pre_nms_topk, self.max_detections = pre_nms_topk, max_detections
        if cells is None:
            cells = [torch.tensor([[-s / 2, -s / 2, s / 2, s / 2]]) for s in strides]
        for i, cell in enumerate(cells):
            self.register_buffer(f"_cells{i}", cell, persistent=False)

    def priors(self, features: Sequence[Tensor], *, assign: bool = False) -> GridPriors:
        """The priors on these maps; the same for regression and assignment."""
        return GridPriors(
            [
                GridLevel(stride, level.shape[-2], level.shape[-1], getattr(self, f"_cells{i}"), 0.5)
                for i, (stride, level) in enumerate(zip(self.strides, features, strict=True))
            ]
        )

    @abc.abstractmethod
    def forward(self, features: list[Tensor]) -> Predicted:
        """Return the outputs, each a list of levels (B, H·W·A, channels)."""

    @abc.abstractmethod
    def scores(self, outputs: Sequence[Tensor]) -> Tensor:
        """(…, K) in [0, 1] from the outputs (…, channels)."""

    @abc.abstractmethod
    def boxes(self, outputs: Sequence[Tensor], anchors: Tensor, stride: Any) -> Tensor:
        """(…, n, 4) XYXY px from the outputs (…, n, channels), n anchors, and their stride, one or (n,)."""

    @abc.abstractmethod
    def losses(self, predictions: Predicted, priors: GridPriors, targets: Any) -> dict[str, Tensor]:
        """The losses of a batch."""

    @torch.no_grad()
    def targets(self, priors: GridPriors, instances: Sequence[Instances], predictions: Predicted) -> Any:
        """Label the priors of each image, looking at what the model says of it."""
        outputs = [o.detach() for o in self.joined(predictions)]
        said = (self.boxes(outputs, priors.boxes(), priors.strides()), self.scores(outputs))
        return assign_targets(self.assigner, priors, instances, self.num_classes, said, points=True)

    @staticmethod
    def joined(predictions: Predicted) -> list[Tensor]:
        """The outputs over all levels, (B, N, channels) in float32 (float64 stays)."""
        joined = [cat(levels, dim=1) for levels in predictions]
        return [o if o.dtype == torch.float64 else o.float() for o in joined]

    @torch.no_grad()
    def decode(
        self, predictions: Predicted, priors: GridPriors, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Detections of each image, by falling score."""
        result = []
        for image, size in enumerate(image_sizes):
            found = []
            for i, (anchors, stride) in enumerate(zip(priors.level_boxes, self.strides, strict=True)):
                outputs = [levels[i][image].float() for levels in predictions]

                def boxes(
                    best: Tensor, outputs: list[Tensor] = outputs, anchors: Tensor = anchors, stride: int = stride
                ) -> Tensor:
                    return self.boxes([o[best] for o in outputs], anchors[best], stride)

                found.append(LevelScores(boxes, self.scores(outputs)))
            result.append(
                detections_of_levels(
                    found,
                    size,
                    score_thresh=self.score_thresh,
                    nms_thresh=self.nms_thresh,
                    pre_nms_topk=self.pre_nms_topk,
                    max_detections=self.max_detections,
                )
            )
        return result

    def positives(self, targets: DenseTargets) -> tuple[Tensor, Tensor]:
        """Where something is learned, and where an object is; both (B, N) boolean."""
        valid = targets.classes >= 0
        return valid, valid & (targets.classes < self.num_classes)
