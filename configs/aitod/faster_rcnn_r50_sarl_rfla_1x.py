"""Faster R-CNN with RFLA and the SARL relay on AI-TOD."""

from ..common.models.faster_rcnn_fpn import model
from ..common.parts import rfla, sarl
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

rfla(model)
sarl(model)
train.output_dir = "output/aitod/faster_rcnn_r50_sarl_rfla_1x"
