"""Quick Faster R-CNN with RFLA and the SARL relay on aerial_*."""

from ..common.parts import sarl
from .faster_rcnn_r18_fpn_rfla import dataloader, lr_multiplier, model, optimizer, train

sarl(model)
train.output_dir = "output/quick/faster_rcnn_r18_sarl_rfla"
