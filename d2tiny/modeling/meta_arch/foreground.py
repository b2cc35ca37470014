"""Where a feature map shows objects, and how well a mask says so."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch import Tensor

from d2tiny.modeling.targets import split_ignored
from d2tiny.utils.precision import without_autocast

__all__ = ["area_under_roc", "foreground", "foreground_loss"]


def foreground(instances: Sequence[Instances], stride: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the cells of a feature map whose centre lies in an object, and the cells that count.

    An object that contains no centre has the cell of its own centre.

    Args:
        instances: the ground truth of B images, with ``gt_boxes`` (XYXY, px) and perhaps ignore regions.
        stride: of the feature map in px.
        size: (H, W) of the feature map.

    Returns:
        Two (B, H, W) bool tensors: objects; and all that is neither ignored nor outside its image.
    """
    inside, valid = [], []
    for image in instances:
        objects, ignored = split_ignored(image)
        boxes = objects.gt_boxes.tensor
        y, x = ((torch.arange(length, device=boxes.device) + 0.5) * stride for length in size)
        mask = _covered(boxes, y, x)
        center_x, center_y = (boxes[:, :2] + boxes[:, 2:]).div(2 * stride).long().unbind(dim=1)
        mask[center_y.clamp(0, size[0] - 1), center_x.clamp(0, size[1] - 1)] = True
        height, width = image.image_size
        in_image = (y < height)[:, None] & (x < width)[None]
        inside.append(mask)
        valid.append(in_image & (mask | ~_covered(ignored, y, x)))
    return torch.stack(inside), torch.stack(valid)


def _covered(boxes: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return which points of a grid lie in any of the boxes (N, 4), (H, W)."""
    in_y = (y[None] >= boxes[:, 1:2]) & (y[None] <= boxes[:, 3:4])
    in_x = (x[None] >= boxes[:, 0:1]) & (x[None] <= boxes[:, 2:3])
    return (in_y[:, :, None] & in_x[:, None, :]).any(dim=0)


def foreground_loss(mask: Tensor, inside: Tensor, valid: Tensor) -> Tensor:
    """Return the binary cross entropy of a mask, in which objects and background weigh the same.

    Args:
        mask: (B, C, H, W) in (0, 1).
        inside: (B, H, W), cells with objects.
        valid: (B, H, W), cells that count.
    """
    with without_autocast(mask.device):
        values = mask.float().mean(dim=1).clamp(1e-6, 1 - 1e-6)
        objects, rest = values[inside & valid], values[valid & ~inside]
        nothing = values.sum() * 0.0
        of_objects = -objects.log().mean() if len(objects) else nothing
        of_rest = -(1 - rest).log().mean() if len(rest) else nothing
        return 0.5 * (of_objects + of_rest)


def area_under_roc(positive: Tensor, negative: Tensor) -> float:
    """Return the probability that a positive scores higher than a negative; ties count half, NaN if one is empty.

    Args:
        positive: (P,) scores.
        negative: (N,) scores.
    """
    if not len(positive) or not len(negative):
        return math.nan
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive, right=False)
    up_to = torch.searchsorted(ordered, positive, right=True)
    return float((below + up_to).double().mean() / (2 * len(ordered)))
