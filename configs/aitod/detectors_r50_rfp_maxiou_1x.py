"""DetectoRS baseline on AI-TOD."""

from ..common.models.detectors import model
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/aitod/detectors_r50_rfp_maxiou_1x"
