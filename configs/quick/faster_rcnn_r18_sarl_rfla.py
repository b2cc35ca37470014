"""Quick Faster R-CNN with RFLA and the SARL relay on aerial_*."""

from ..common.data import aerial
from ..common.models.rcnn import faster_rcnn_r18
from ..common.parts.rcnn import rfla, sarl
from ..common.recipes import quick

dataset = aerial()
model = sarl(rfla(faster_rcnn_r18(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
