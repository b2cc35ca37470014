"""Faster R-CNN with RFLA and E-FPN-BS on AI-TOD-v2."""

from ..common.data import aitodv2
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import efpnbs, rfla
from ..common.recipes import rcnn_1x

dataset = aitodv2()
model = efpnbs(rfla(faster_rcnn_r50(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
