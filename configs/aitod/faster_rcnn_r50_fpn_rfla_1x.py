"""Faster R-CNN with RFLA on AI-TOD."""

from ..common.models.faster_rcnn_fpn_rfla import model
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/aitod/faster_rcnn_r50_fpn_rfla_1x"
