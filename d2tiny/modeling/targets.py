"""Ground truth of an image: objects and ignore regions."""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import Tensor

__all__ = ["split_ignored"]


def split_ignored(targets: Instances) -> tuple[Instances, Tensor]:
    """Split an image's instances by their ``gt_ignore`` field.

    Args:
        targets: with ``gt_boxes`` and, in datasets with ignore regions, a boolean ``gt_ignore``; not modified.

    Returns:
        The objects without that field, and the ignore regions (R, 4), XYXY in px.
    """
    boxes = targets.gt_boxes.tensor
    if not targets.has("gt_ignore"):
        return targets, boxes.new_zeros((0, 4))
    ignored = targets.gt_ignore
    objects = targets[~ignored] if bool(ignored.any()) else targets[torch.arange(len(targets), device=boxes.device)]
    objects.remove("gt_ignore")
    return objects, boxes[ignored]
