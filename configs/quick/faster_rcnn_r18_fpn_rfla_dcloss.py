"""Quick Faster R-CNN with RFLA and DCLoss on aerial_*."""

from ..common.parts import dcloss
from .faster_rcnn_r18_fpn_rfla import dataloader, lr_multiplier, model, optimizer, train

dcloss(model)
train.output_dir = "output/quick/faster_rcnn_r18_fpn_rfla_dcloss"
