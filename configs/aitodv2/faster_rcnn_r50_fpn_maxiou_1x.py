"""Faster R-CNN baseline on AI-TOD-v2."""

from ..aitod.faster_rcnn_r50_fpn_maxiou_1x import lr_multiplier, model, optimizer, train
from ..common.data.aitodv2 import dataloader

train.output_dir = "output/aitodv2/faster_rcnn_r50_fpn_maxiou_1x"
