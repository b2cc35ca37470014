"""Quick baseline on aerial_*: the papers' anchors (8 × stride), IoU assignment."""

from ..common.data import aerial
from ..common.models.rcnn import faster_rcnn_r18
from ..common.recipes import quick

dataset = aerial()
model = faster_rcnn_r18(dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = quick(dataset)
