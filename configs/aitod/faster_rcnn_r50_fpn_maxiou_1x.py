"""Faster R-CNN baseline on AI-TOD: anchors of 8 × stride, IoU assignment, 12 epochs of batch 2."""

from ..common.data import aitod
from ..common.models.rcnn import faster_rcnn_r50
from ..common.recipes import rcnn_1x

dataset = aitod()
model = faster_rcnn_r50(dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
