"""Faster R-CNN with NWD: assigner, loss and NMS on AI-TOD."""

from ..common.data import aitod
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import nwd
from ..common.recipes import nwd_1x

dataset = aitod()
model = nwd(faster_rcnn_r50(dataset.num_classes), loss_weight=10.0)
dataloader, optimizer, lr_multiplier, train = nwd_1x(dataset)
