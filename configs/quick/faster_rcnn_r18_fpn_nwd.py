"""Quick Faster R-CNN with NWD in assigner, loss and NMS on aerial_*; anchors of 8-128 px."""

from ..common.data import aerial
from ..common.models.rcnn import faster_rcnn_r18
from ..common.parts.rcnn import anchors_8_to_128, nwd
from ..common.recipes import quick

dataset = aerial()
model = nwd(anchors_8_to_128(faster_rcnn_r18(dataset.num_classes)))
dataloader, optimizer, lr_multiplier, train = quick(dataset)
