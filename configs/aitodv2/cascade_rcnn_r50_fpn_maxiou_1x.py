"""Cascade R-CNN baseline on AI-TOD-v2."""

from ..aitod.cascade_rcnn_r50_fpn_maxiou_1x import model
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/aitodv2/cascade_rcnn_r50_fpn_maxiou_1x"
