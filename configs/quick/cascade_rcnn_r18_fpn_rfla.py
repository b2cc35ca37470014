"""Quick Cascade R-CNN with RFLA on aerial_*."""

from ..common.models.cascade_rcnn_r18_fpn import model
from ..common.parts import rfla
from .faster_rcnn_r18_fpn_maxiou import dataloader, lr_multiplier, optimizer, train

rfla(model)
train.output_dir = "output/quick/cascade_rcnn_r18_fpn_rfla"
