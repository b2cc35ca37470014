"""Faster R-CNN with RFLA on DTOD."""

from ..common.data import dtod
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import rfla
from ..common.recipes import rcnn_1x

dataset = dtod()
model = rfla(faster_rcnn_r50(dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
