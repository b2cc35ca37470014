"""Conversions and overlaps of axis-aligned boxes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.ops import distance_box_iou_loss

__all__ = [
    "CHUNK_ELEMENTS",
    "DENSE_ELEMENTS",
    "aligned_ciou",
    "aligned_iou",
    "chunks",
    "cxcywh_to_xyxy",
    "max_iof",
    "pairwise_giou",
    "pairwise_intersection",
    "pairwise_iou",
    "xyxy_to_cxcywh",
]

# Elements of one temporary matrix in chunked computations: 1M float64 values are 8 MB.
CHUNK_ELEMENTS = 1 << 20
# The same where many passes go over one matrix, which should stay in the processor's cache.
DENSE_ELEMENTS = 1 << 17


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert (…, 4) boxes from corners to centre, width, height."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), dim=-1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert (…, 4) boxes from centre, width, height to corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def chunks(rows: int, columns: int, elements: int = CHUNK_ELEMENTS) -> Iterator[slice]:
    """Yield slices of ``rows`` such that (slice, columns) has at most ``elements`` elements, but at least one row."""
    step = max(1, elements // max(columns, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def pairwise_intersection(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the (N, M) intersection areas in px²; 0 for boxes of negative size."""
    top_left = torch.maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    bottom_right = torch.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    return (bottom_right - top_left).clamp(min=0).prod(dim=-1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the (N, M) intersection over union in [0, 1]; 0 where both boxes have no area."""
    inter = pairwise_intersection(boxes1, boxes2)
    union = _area(boxes1)[:, None] + _area(boxes2)[None, :] - inter
    return torch.where(inter > 0, inter / union.clamp(min=torch.finfo(inter.dtype).tiny), 0.0)


def pairwise_giou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the (N, M) generalised IoU in [-1, 1] (Rezatofighi et al., 2019)."""
    inter = pairwise_intersection(boxes1, boxes2)
    union = _area(boxes1)[:, None] + _area(boxes2)[None, :] - inter
    tiny = torch.finfo(inter.dtype).tiny
    low = torch.minimum(boxes1[:, None, :2], boxes2[None, :, :2])
    high = torch.maximum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    hull = (high - low).prod(dim=-1)
    return inter / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def aligned_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the (...,) intersection over union in [0, 1] of (..., 4) boxes; 0 where both have no area."""
    top_left = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    inter = (torch.minimum(boxes1[..., 2:], boxes2[..., 2:]) - top_left).clamp(min=0).prod(dim=-1)
    union = _area(boxes1) + _area(boxes2) - inter
    return inter / union.clamp(min=torch.finfo(inter.dtype).tiny)


# px; the aspect ratio of a smaller box is rounding error.
_MIN_SIDE = 1e-3


def aligned_ciou(pred: Tensor, target: Tensor) -> Tensor:
    """Return the (N,) complete IoU of box i with box i, at most 1 (Zheng et al., 2020).

    CIoU is IoU minus penalties for the distance of the centres and for different aspect ratios; its α has no gradient.
    torchvision's version divides by the height, which float32 corners may round to zero.
    """

    def angle(boxes: Tensor) -> Tensor:
        width, height = (boxes[:, 2:] - boxes[:, :2]).clamp(min=_MIN_SIDE).unbind(1)
        return torch.atan2(width, height)

    v = 4 / math.pi**2 * (angle(target) - angle(pred)) ** 2
    with torch.no_grad():
        alpha = v / (1 - aligned_iou(pred, target) + v).clamp(min=torch.finfo(v.dtype).eps)
    return 1 - distance_box_iou_loss(pred, target, reduction="none") - alpha * v


def max_iof(boxes: Tensor, regions: Tensor) -> Tensor:
    """Return for each box the largest intersection over foreground (IoF): intersection by the box's own area.

    Args:
        boxes: (N, 4) XYXY.
        regions: (R, 4) XYXY, for example ignore regions.

    Returns:
        (N,) maximum over the regions, in [0, 1]; 0 without regions and for boxes without area.
    """
    best = boxes.new_zeros(len(boxes))
    area = _area(boxes)
    for part in chunks(len(regions), len(boxes)):
        inter = pairwise_intersection(regions[part], boxes).amax(dim=0)
        best = torch.maximum(best, inter)
    return torch.where(area > 0, best / area.clamp(min=torch.finfo(boxes.dtype).tiny), 0.0)
