"""Faster R-CNN with RFLA, E-FPN-BS and DCLoss on AI-TOD ("RFLA*" of arXiv 2506.09897)."""

from ..common.models.faster_rcnn_efpnbs_rfla_dcloss import model
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/aitod/faster_rcnn_r50_efpnbs_rfla_dcloss_1x"
