"""Non-maximum suppression that stays exact on large scenes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

__all__ = ["batched_nms"]


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Greedy NMS inside each group (class or level).

    torchvision's batched version shifts every group to its own place in float32, which changes IoUs of tiny boxes
    in scenes of several thousand pixels; here each group is suppressed on its own.

    Args:
        boxes: (N, 4).
        scores: (N,).
        groups: (N,) integers; boxes of different groups never suppress each other.
        iou_threshold: a box is dropped when its IoU with a better one is above this, in [0, 1].

    Returns:
        Indices of the kept boxes by falling score; equal scores keep their input order.
    """
    boxes, scores = boxes.float(), scores.float()
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for group in groups.unique().tolist():
        index = (groups == group).nonzero().flatten()
        keep[index[nms(boxes[index], scores[index], iou_threshold)]] = True
    kept = keep.nonzero().flatten()
    return kept[scores[kept].argsort(descending=True, stable=True)]
