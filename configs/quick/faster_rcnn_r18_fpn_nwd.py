"""Quick Faster R-CNN with NWD in assigner, loss and NMS on aerial_*; anchors of 8-128 px."""

from ..common.parts import nwd
from .faster_rcnn_r18_fpn_maxiou_a8 import dataloader, lr_multiplier, model, optimizer, train

nwd(model)
train.output_dir = "output/quick/faster_rcnn_r18_fpn_nwd"
