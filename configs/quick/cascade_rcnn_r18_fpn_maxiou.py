"""Quick Cascade R-CNN baseline on aerial_*: anchors of 8 × stride, IoU assignment."""

from ..common.data import aerial
from ..common.models.rcnn import cascade_rcnn_r18
from ..common.recipes import quick

dataset = aerial()
model = cascade_rcnn_r18(dataset.num_classes)
dataloader, optimizer, lr_multiplier, train = quick(dataset)
