"""Base class of the dense heads: label assignment and selection of detections."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Generic

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from d2tiny.modeling.assigners import Assigner
from d2tiny.modeling.contracts import DenseTargets, HeadOutputs, TargetsT
from d2tiny.modeling.dense_heads.common import LevelPredictions, check_test_settings, select_detections_by_level
from d2tiny.modeling.priors import GridPriors

__all__ = ["BaseDenseHead"]


class BaseDenseHead(nn.Module, abc.ABC, Generic[TargetsT]):
    """A :class:`~d2tiny.modeling.contracts.DenseHead`; its network, priors, losses and box coding are the subclass's.

    Type parameter:
        TargetsT: what :meth:`targets` returns and :meth:`losses` takes.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        assigner: Assigner,
        score_thresh: float,
        nms_thresh: float,
        pre_nms_topk: int,
        max_detections: int,
    ) -> None:
        """Set what all dense heads share.

        Args:
            num_classes: K.
            assigner: labels the priors.
            score_thresh: scores of detections must be above it, in [0, 1).
            nms_thresh: IoU above which the detection with the lower score is removed, in [0, 1].
            pre_nms_topk: number of priors of a level that are decoded, by their best score.
            max_detections: most detections of an image.

        Raises:
            ValueError: a setting outside its range.
        """
        super().__init__()
        check_test_settings(type(self).__name__, score_thresh, nms_thresh, pre_nms_topk, max_detections)
        self.num_classes, self.assigner = num_classes, assigner
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.pre_nms_topk, self.max_detections = pre_nms_topk, max_detections

    @abc.abstractmethod
    def forward(self, features: list[Tensor]) -> HeadOutputs:
        """Predict from feature maps (B, C, H_l, W_l), finest first."""

    @abc.abstractmethod
    def priors(self, features: Sequence[Tensor], *, assign: bool = False) -> GridPriors:
        """Return the priors on these maps: those of box regression, or with ``assign`` those of label assignment."""

    @abc.abstractmethod
    def targets(self, priors: GridPriors, instances: Sequence[Instances], outputs: HeadOutputs) -> TargetsT:
        """Label the priors of each image; ignore regions are where ``gt_ignore`` is set."""

    @abc.abstractmethod
    def losses(self, outputs: HeadOutputs, priors: GridPriors, targets: TargetsT) -> dict[str, Tensor]:
        """Return the scalar losses of a batch by name."""

    @abc.abstractmethod
    def predict_level(self, outputs: HeadOutputs, priors: GridPriors, image: int, level: int) -> LevelPredictions:
        """Return scores and box decoder of one level of one image."""

    @torch.no_grad()
    def decode(
        self, outputs: HeadOutputs, priors: GridPriors, image_sizes: Sequence[tuple[int, int]]
    ) -> list[Instances]:
        """Return the detections of each image by falling score; sizes are (height, width) in px."""
        return [
            select_detections_by_level(
                [self.predict_level(outputs, priors, image, level) for level in range(len(priors.levels))],
                size,
                score_thresh=self.score_thresh,
                nms_thresh=self.nms_thresh,
                pre_nms_topk=self.pre_nms_topk,
                max_detections=self.max_detections,
            )
            for image, size in enumerate(image_sizes)
        ]

    def valid_and_positive(self, targets: DenseTargets) -> tuple[Tensor, Tensor]:
        """Return two (B, N) masks: priors that are not ignored, and priors with an object."""
        valid = targets.classes >= 0
        return valid, valid & (targets.classes < self.num_classes)
