"""Faster R-CNN with RFLA, E-FPN-BS and DCLoss on VisDrone-DET."""

from ..aitod.faster_rcnn_r50_efpnbs_rfla_dcloss_1x import model
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/visdrone/faster_rcnn_r50_efpnbs_rfla_dcloss_1x"
model.roi_heads.num_classes = 10
