"""Non-maximum suppression by IoU or NWD that stays exact on large images."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from d2tiny.ops.boxes import xyxy_to_cxcywh
from d2tiny.ops.gaussian import EPS
from d2tiny.ops.grid_nms import LEAST_THRESHOLD, grid_nms
from d2tiny.utils.compiled import njit

__all__ = ["batched_nms", "nwd_nms"]


def batched_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, *, metric: str = "iou", constant: float = 12.8
) -> Tensor:
    """Apply greedy NMS within each group (class or level).

    torchvision's ``batched_nms`` offsets the boxes of each group in float32, which changes the IoU of tiny boxes in
    images of several thousand pixels; here the groups are processed separately. On processors, IoU is computed only for
    neighbours (:func:`~d2tiny.ops.grid_nms.grid_nms`): the time grows with N, not with its square.

    Args:
        boxes: (N, 4) XYXY in px.
        scores: (N,).
        groups: (N,) integers; boxes of different groups never suppress each other.
        threshold: a box is suppressed if its IoU (or NWD) with a kept box of higher score exceeds this, in [0, 1].
        metric: ``iou`` or ``nwd``.
        constant: C of NWD in px.

    Returns:
        Indices of the kept boxes by descending score; equal scores keep their input order.

    Raises:
        ValueError: an unknown metric.
    """
    if metric not in ("iou", "nwd"):
        raise ValueError(f"batched_nms: metric must be 'iou' or 'nwd', got {metric!r}.")
    boxes, scores = boxes.detach().float(), scores.detach().float()
    if metric == "iou" and threshold >= LEAST_THRESHOLD and boxes.device.type == "cpu":
        return torch.from_numpy(grid_nms(boxes.numpy(), scores.numpy(), groups.numpy(), threshold))
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for group in groups.unique().tolist():
        index = (groups == group).nonzero().flatten()
        if metric == "nwd":
            kept = nwd_nms(boxes[index], scores[index], threshold, constant)
        else:
            kept = nms(boxes[index], scores[index], threshold)
        keep[index[kept]] = True
    kept = keep.nonzero().flatten()
    return kept[scores[kept].argsort(descending=True, stable=True)]


def nwd_nms(boxes: Tensor, scores: Tensor, threshold: float, constant: float = 12.8) -> Tensor:
    """Apply greedy NMS with the normalised Wasserstein distance instead of IoU (Xu et al., 2022).

    Args:
        boxes: (N, 4) XYXY in px.
        scores: (N,).
        threshold: a box is suppressed if its NWD to a kept box of higher score exceeds this, in (0, 1); 0.85 in the
            released configs.
        constant: C of NWD in px.

    Returns:
        Indices of the kept boxes by descending score; equal scores keep their input order.

    Raises:
        ValueError: ``threshold`` or ``constant`` is outside its range.
    """
    if not 0 < threshold < 1 or constant <= 0:
        raise ValueError(f"nwd_nms: need 0 < threshold < 1 and constant > 0 px, got {threshold}, {constant}.")
    order = scores.argsort(descending=True, stable=True)
    # NWD > t is W₂² < (C·ln t)²: comparing squared distances needs neither exponential nor root.
    limit = (constant * math.log(threshold)) ** 2
    # The sequential loop takes milliseconds on the CPU, so boxes on a GPU are copied.
    kept = _suppress(xyxy_to_cxcywh(boxes[order].double()).cpu().numpy(), limit)
    return order[torch.from_numpy(kept).to(order.device)]


@njit(cache=True)
def _suppress(boxes: np.ndarray, limit: float) -> np.ndarray:
    """Return which of (N, 4) boxes (centre, width, height; best first) have W₂² ≥ ``limit`` to all better kept ones."""
    keep = np.ones(len(boxes), np.bool_)
    for i in range(len(boxes)):
        if not keep[i]:
            continue
        for j in range(i + 1, len(boxes)):
            dx, dy = boxes[i, 0] - boxes[j, 0], boxes[i, 1] - boxes[j, 1]
            dw, dh = boxes[i, 2] - boxes[j, 2], boxes[i, 3] - boxes[j, 3]
            if (dw * dw + dh * dh) / 4 + EPS + (dx * dx + dy * dy) < limit:
                keep[j] = False
    return keep
