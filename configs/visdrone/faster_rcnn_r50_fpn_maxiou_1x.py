"""Faster R-CNN baseline on VisDrone-DET."""

from ..aitod.faster_rcnn_r50_fpn_maxiou_1x import lr_multiplier, model, optimizer, train
from ..common.data.visdrone import dataloader

# Tables of tiny-object papers are in AI-TOD metrics; VisDrone's own are `protocol=visdrone`.
dataloader.evaluator.protocol = "aitod"
# 6,471 images / 2 = 3,236 iterations an epoch.
train.max_iter, train.eval_period = 38832, 3236
train.output_dir = "output/visdrone/faster_rcnn_r50_fpn_maxiou_1x"
model.roi_heads.num_classes = 10
