"""RetinaNet baseline on AI-TOD."""

from ..common.models.retinanet import model
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/aitod/retinanet_r50_fpn_maxiou_1x"
