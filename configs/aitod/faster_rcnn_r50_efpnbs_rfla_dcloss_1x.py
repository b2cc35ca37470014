"""Faster R-CNN with RFLA, E-FPN-BS and DCLoss on AI-TOD (the "*" rows of arXiv 2506.09897)."""

from ..common.data import aitod
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import dcloss, efpnbs, rfla
from ..common.recipes import rcnn_1x

dataset = aitod()
model = dcloss(efpnbs(rfla(faster_rcnn_r50(dataset.num_classes))))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
