"""Faster R-CNN with RFLA on DIOR."""

from ..aitod.faster_rcnn_r50_fpn_rfla_1x import lr_multiplier, model, optimizer, train
from ..common.data.dior import dataloader

# 11,725 images / 2 = 5,863 iterations an epoch.
train.max_iter, train.eval_period = 70356, 5863
train.output_dir = "output/dior/faster_rcnn_r50_fpn_rfla_1x"
model.roi_heads.num_classes = 20
