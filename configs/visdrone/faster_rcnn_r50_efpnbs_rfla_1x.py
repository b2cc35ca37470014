"""Faster R-CNN with RFLA and E-FPN-BS on VisDrone-DET."""

from ..common.data import visdrone
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import efpnbs, rfla
from ..common.recipes import rcnn_1x

dataset = visdrone()
model = efpnbs(rfla(faster_rcnn_r50(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
