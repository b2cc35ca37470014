"""Quick Faster R-CNN with RFLA and E-FPN-BS on aerial_*."""

from ..common.models.faster_rcnn_r18_fpn import model
from ..common.parts import efpnbs, rfla
from .faster_rcnn_r18_fpn_maxiou import dataloader, lr_multiplier, optimizer, train

rfla(model)
efpnbs(model)
train.output_dir = "output/quick/faster_rcnn_r18_efpnbs_rfla"
