"""Faster R-CNN with RFLA on DTOD."""

from ..aitod.faster_rcnn_r50_fpn_rfla_1x import lr_multiplier, model, optimizer, train
from ..common.data.dtod import dataloader

# Set model.roi_heads.num_classes to the classes of your json (the check before training says how many).
train.max_iter, train.eval_period = 60000, 5000
train.output_dir = "output/dtod/faster_rcnn_r50_fpn_rfla_1x"
model.roi_heads.num_classes = 1
