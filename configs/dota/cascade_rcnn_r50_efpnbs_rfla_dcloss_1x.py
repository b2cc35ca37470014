"""Cascade R-CNN with RFLA, E-FPN-BS and DCLoss on DOTA-v2.0 tiles."""

from ..aitod.cascade_rcnn_r50_efpnbs_rfla_dcloss_1x import model
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/dota/cascade_rcnn_r50_efpnbs_rfla_dcloss_1x"
model.roi_heads.num_classes = 18
