"""FCOS baseline on AI-TOD."""

from ..common.models.fcos import model
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/aitod/fcos_r50_p3_1x"
