"""Quick Faster R-CNN with RFLA and FBSM alone on aerial_*."""

from ..common.parts import efpnbs
from .faster_rcnn_r18_fpn_rfla import dataloader, lr_multiplier, model, optimizer, train

efpnbs(model, cem=False)
train.output_dir = "output/quick/faster_rcnn_r18_fbsm_rfla"
