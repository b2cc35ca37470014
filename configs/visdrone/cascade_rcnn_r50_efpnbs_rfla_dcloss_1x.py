"""Cascade R-CNN with RFLA, E-FPN-BS and DCLoss on VisDrone-DET."""

from ..common.data import visdrone
from ..common.models.rcnn import cascade_rcnn_r50
from ..common.parts.rcnn import dcloss, efpnbs, rfla
from ..common.recipes import rcnn_1x

dataset = visdrone()
model = dcloss(efpnbs(rfla(cascade_rcnn_r50(dataset.num_classes))))
dataloader, optimizer, lr_multiplier, train = rcnn_1x(dataset)
