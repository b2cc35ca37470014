"""Faster R-CNN with RFLA on DIOR."""

from ..common.data import dior
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import rfla
from ..common.recipes import rcnn_1x

dataset = dior()
model = rfla(faster_rcnn_r50(dataset.num_classes))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
