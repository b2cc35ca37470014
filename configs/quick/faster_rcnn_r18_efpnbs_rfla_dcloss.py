"""Quick Faster R-CNN with RFLA, E-FPN-BS and DCLoss on aerial_*."""

from ..common.parts import dcloss, efpnbs
from .faster_rcnn_r18_fpn_rfla import dataloader, lr_multiplier, model, optimizer, train

efpnbs(model)
dcloss(model)
train.output_dir = "output/quick/faster_rcnn_r18_efpnbs_rfla_dcloss"
