"""Cascade R-CNN with RFLA on AI-TOD."""

from ..common.models.cascade_rcnn_fpn import model
from ..common.parts import rfla
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

rfla(model)
train.output_dir = "output/aitod/cascade_rcnn_r50_fpn_rfla_1x"
