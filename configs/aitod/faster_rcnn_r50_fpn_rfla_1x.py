"""Faster R-CNN with RFLA on AI-TOD."""

from ..common.data import aitod
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import rfla
from ..common.recipes import rcnn_1x

dataset = aitod()
model = rfla(faster_rcnn_r50(dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
