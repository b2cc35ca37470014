"""Faster R-CNN with RFLA, the light variant of E-FPN-BS (ours) and DCLoss on AI-TOD."""

from ..common.models.faster_rcnn_fpn import model
from ..common.parts import dcloss, efpnbs, rfla
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

rfla(model)
efpnbs(model, light=True)
dcloss(model)
train.output_dir = "output/aitod/faster_rcnn_r50_efpnbslight_rfla_dcloss_1x"
