"""Faster R-CNN baseline on DOTA-v2.0 tiles."""

from ..common.data import dotav2
from ..common.models.rcnn import faster_rcnn_r50
from ..common.recipes import rcnn_1x

dataset = dotav2()
model = faster_rcnn_r50(dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
