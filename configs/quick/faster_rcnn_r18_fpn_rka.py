"""Quick Faster R-CNN with NWD-RKA on aerial_*; anchors of 8-128 px."""

from ..common.data import aerial
from ..common.models.rcnn import faster_rcnn_r18
from ..common.parts.rcnn import anchors_8_to_128, rka
from ..common.recipes import quick

dataset = aerial()
model = rka(anchors_8_to_128(faster_rcnn_r18(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
