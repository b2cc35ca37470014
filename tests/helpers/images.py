"""Images with objects, as a data loader hands them to a model."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances

from d2tiny.modeling.contracts import Targets


def targets(boxes, size=(64, 96), ignore=None):
    """Return the ground truth of an image of ``size`` (height, width): XYXY boxes, classes 0, 1, ..., 7, 0, ..."""
    instances = Instances(size)
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.arange(len(boxes)) % 8
    if ignore is not None:
        instances.gt_ignore = torch.tensor(ignore, dtype=torch.bool)
    return instances


def item(boxes, size=(64, 96), ignore=None):
    """Return one entry of a batch: a random image and its ground truth."""
    image = torch.randint(0, 255, (3, *size), dtype=torch.uint8)
    return {"image": image, "instances": targets(boxes, size, ignore), "height": size[0], "width": size[1]}


def query_targets(labels, boxes, ignore_boxes=None):
    """Return the targets of a batch as transformers use them; without ignore regions unless given."""
    return Targets(labels, boxes, ignore_boxes or [torch.zeros(0, 4)] * len(labels))
