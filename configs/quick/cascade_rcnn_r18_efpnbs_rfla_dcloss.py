"""Quick Cascade R-CNN with RFLA, E-FPN-BS and DCLoss on aerial_*."""

from ..common.data import aerial
from ..common.models.rcnn import cascade_rcnn_r18
from ..common.parts.rcnn import dcloss, efpnbs, rfla
from ..common.recipes import quick

dataset = aerial()
model = dcloss(efpnbs(rfla(cascade_rcnn_r18(dataset.num_classes))))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
