"""DetectoRS with RFLA on AI-TOD."""

from ..common.models.detectors import model
from ..common.parts import rfla
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

rfla(model)
train.output_dir = "output/aitod/detectors_r50_rfp_rfla_1x"
