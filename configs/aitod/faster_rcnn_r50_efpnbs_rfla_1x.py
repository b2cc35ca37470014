"""Faster R-CNN with RFLA and E-FPN-BS on AI-TOD."""

from ..common.models.faster_rcnn_fpn import model
from ..common.parts import efpnbs, rfla
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

rfla(model)
efpnbs(model)
train.output_dir = "output/aitod/faster_rcnn_r50_efpnbs_rfla_1x"
