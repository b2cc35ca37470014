"""Cascade R-CNN baseline on AI-TOD."""

from ..common.models.cascade_rcnn_fpn import model
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/aitod/cascade_rcnn_r50_fpn_maxiou_1x"
