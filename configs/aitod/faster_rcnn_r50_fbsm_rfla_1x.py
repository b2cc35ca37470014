"""Faster R-CNN with RFLA and FBSM alone (table 5 of arXiv 2506.09897) on AI-TOD."""

from ..common.data import aitod
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import efpnbs, rfla
from ..common.recipes import rcnn_1x

dataset = aitod()
model = efpnbs(rfla(faster_rcnn_r50(dataset.num_classes)), cem=False)
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
