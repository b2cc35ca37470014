"""Quick Cascade R-CNN baseline on aerial_*: anchors of 8 × stride, IoU assignment."""

from ..common.models.cascade_rcnn_r18_fpn import model
from .faster_rcnn_r18_fpn_maxiou import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/quick/cascade_rcnn_r18_fpn_maxiou"
