"""Faster R-CNN with RFLA and E-FPN-BS on DOTA-v2.0 tiles."""

from ..aitod.faster_rcnn_r50_efpnbs_rfla_1x import model
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/dota/faster_rcnn_r50_efpnbs_rfla_1x"
model.roi_heads.num_classes = 18
model.proposal_generator.assigner.topk = [2, 1]  # as RFLA has it for DOTA-v2
