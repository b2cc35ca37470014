"""Quick Faster R-CNN with RFLA on aerial_*."""

from ..common.parts import rfla
from .faster_rcnn_r18_fpn_maxiou import dataloader, lr_multiplier, model, optimizer, train

rfla(model)
train.output_dir = "output/quick/faster_rcnn_r18_fpn_rfla"
