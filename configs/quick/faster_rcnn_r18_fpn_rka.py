"""Quick Faster R-CNN with NWD-RKA on aerial_*; anchors of 8-128 px."""

from ..common.parts import rka
from .faster_rcnn_r18_fpn_maxiou_a8 import dataloader, lr_multiplier, model, optimizer, train

rka(model)
train.output_dir = "output/quick/faster_rcnn_r18_fpn_rka"
