"""Quick Faster R-CNN with RFLA and the light variant of E-FPN-BS (ours) on aerial_*."""

from ..common.parts import efpnbs
from .faster_rcnn_r18_fpn_rfla import dataloader, lr_multiplier, model, optimizer, train

efpnbs(model, light=True)
train.output_dir = "output/quick/faster_rcnn_r18_efpnbslight_rfla"
