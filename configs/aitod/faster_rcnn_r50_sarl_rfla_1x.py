"""Faster R-CNN with RFLA and the SARL relay on AI-TOD."""

from ..common.data import aitod
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import rfla, sarl
from ..common.recipes import rcnn_1x

dataset = aitod()
model = sarl(rfla(faster_rcnn_r50(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
