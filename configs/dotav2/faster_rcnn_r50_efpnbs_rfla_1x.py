"""Faster R-CNN with RFLA and E-FPN-BS on DOTA-v2.0 tiles."""

from ..common.data import dotav2
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import efpnbs, rfla
from ..common.recipes import rcnn_1x

dataset = dotav2()
# As RFLA has it for DOTA-v2.
model = efpnbs(rfla(faster_rcnn_r50(dataset.num_classes), topk=(2, 1)))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
