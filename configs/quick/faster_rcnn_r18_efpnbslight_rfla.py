"""Quick Faster R-CNN with RFLA and the light variant of E-FPN-BS (ours) on aerial_*."""

from ..common.data import aerial
from ..common.models.rcnn import faster_rcnn_r18
from ..common.parts.rcnn import efpnbs, rfla
from ..common.recipes import quick

dataset = aerial()
model = efpnbs(rfla(faster_rcnn_r18(dataset.num_classes)), light=True)
dataloader, optimizer, lr_multiplier, train = quick(dataset)
