"""Quick Cascade R-CNN with RFLA and E-FPN-BS on aerial_*."""

from ..common.data import aerial
from ..common.models.rcnn import cascade_rcnn_r18
from ..common.parts.rcnn import efpnbs, rfla
from ..common.recipes import quick

dataset = aerial()
model = efpnbs(rfla(cascade_rcnn_r18(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
