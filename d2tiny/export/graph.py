"""Detectors as graphs of tensors: from a padded image to a fixed number of detections.

Letters in shapes: B images, D detections of an image at most, K classes, L levels, M candidates, P proposals.

Everything has a fixed shape but for the height and width of the images; places that hold nothing have a score of −∞.
The numbers are those of the models' own inference, operation by operation.
"""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor, nn

from d2tiny.export.nms import LOWEST, grouped_nms

__all__ = [
    "Detections",
    "DetectorGraph",
    "clipped",
    "finished",
    "finite_and_nonempty",
    "gathered",
    "topk_padded",
]

Detections = tuple[Tensor, Tensor, Tensor, Tensor]


class DetectorGraph(nn.Module, abc.ABC):
    """The part of a detector behind normalisation and padding."""

    def __init__(self, model: Any) -> None:
        """Take a model in evaluation mode."""
        super().__init__()
        self.model = model

    @abc.abstractmethod
    def forward(self, images: Tensor, size: Tensor) -> Detections:
        """Detect.

        Args:
            images: (B, 3, H, W) float32, normalised and padded with 0 below and right.
            size: (2,) int64, height and width of all images in px, without padding.

        Returns:
            ``boxes`` (B, D, 4) float32 XYXY in px, ``scores`` (B, D) float32, ``classes`` (B, D) int64 by falling
            score, and ``num_detections`` (B,) int64, after which rows are unused.
        """

    def _select(self, boxes: Tensor, scores: Tensor, size: Tensor, nms_thresh: float, most: int) -> Detections:
        """Select detections by NMS inside each class and top-k.

        Args:
            boxes: (B, M, 1 or K, 4) XYXY in px.
            scores: (B, M, K); −∞ where nothing is to be detected.
            size: of the images.
            nms_thresh: IoU above which the detection with the lower score is removed.
            most: D at most; fewer if there are fewer candidates.
        """
        boxes = clipped(boxes, size)
        scores = torch.where(finite_and_nonempty(boxes), scores, -torch.inf)
        batch, count, classes = scores.shape
        per_class = boxes.expand(-1, -1, classes, -1)
        groups = per_class.transpose(1, 2).reshape(batch * classes, count, 4)
        keep = grouped_nms(groups, scores.transpose(1, 2).reshape(batch * classes, count), nms_thresh)
        keep = keep.view(batch, classes, count).transpose(1, 2)
        flat = torch.where(keep, scores, -torch.inf).reshape(batch, -1)
        best, index = flat.topk(min(most, count * classes), dim=1)
        found = per_class.reshape(batch, count * classes, 4).gather(1, index[..., None].expand(-1, -1, 4))
        return finished(found, best, index % classes)


def finished(boxes: Tensor, scores: Tensor, classes: Tensor) -> Detections:
    """Return detections by falling score, whose unused rows (score −∞) become 0."""
    used = scores > LOWEST
    boxes, scores = torch.where(used[..., None], boxes, 0.0), torch.where(used, scores, 0.0)
    return boxes, scores, torch.where(used, classes, 0), used.long().sum(dim=1)


def clipped(boxes: Tensor, size: Tensor) -> Tensor:
    """Return boxes (…, 4) clipped to images of ``size`` (height, width)."""
    limit = torch.stack((size[1], size[0], size[1], size[0])).to(boxes.dtype)
    return boxes.clamp(min=0.0).minimum(limit)


def finite_and_nonempty(boxes: Tensor) -> Tensor:
    """Return which boxes (…, 4) are finite and have an area, (…) boolean."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return ((boxes.abs() < -LOWEST).all(dim=-1)) & (sides > 0).all(dim=-1)


def topk_padded(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the best scores (B, count) and their places of (B, N), also where N is smaller: then the last are −∞."""
    padding = scores.new_full((scores.shape[0], count), -torch.inf)
    best, index = torch.cat((scores, padding), dim=1).topk(count, dim=1)
    return best, index.clamp(max=scores.shape[1] - 1)


def gathered(values: Tensor, index: Tensor) -> Tensor:
    """Return rows (B, m, C) of ``values`` (B, N, C) by ``index`` (B, m)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
