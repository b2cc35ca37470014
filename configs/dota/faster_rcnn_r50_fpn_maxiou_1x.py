"""Faster R-CNN baseline on DOTA-v2.0 tiles."""

from ..aitod.faster_rcnn_r50_fpn_maxiou_1x import lr_multiplier, model, optimizer, train
from ..common.data.dotav2 import dataloader

# The number of tiles depends on how they are cut; 5,000 iterations are taken for an epoch.
train.max_iter, train.eval_period = 60000, 5000
train.output_dir = "output/dota/faster_rcnn_r50_fpn_maxiou_1x"
model.roi_heads.num_classes = 18
