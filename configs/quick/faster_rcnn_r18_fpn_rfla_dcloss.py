"""Quick Faster R-CNN with RFLA and DCLoss on aerial_*."""

from ..common.data import aerial
from ..common.models.rcnn import faster_rcnn_r18
from ..common.parts.rcnn import dcloss, rfla
from ..common.recipes import quick

dataset = aerial()
model = dcloss(rfla(faster_rcnn_r18(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
