"""Cascade R-CNN with RFLA and E-FPN-BS on DOTA-v2.0 tiles."""

from ..common.data import dotav2
from ..common.models.rcnn import cascade_rcnn_r50
from ..common.parts.rcnn import efpnbs, rfla
from ..common.recipes import rcnn_1x

dataset = dotav2()
model = efpnbs(rfla(cascade_rcnn_r50(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
