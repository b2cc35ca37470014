"""DetectoRS with RFLA on AI-TOD-v2."""

from ..aitod.detectors_r50_rfp_rfla_1x import model
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/aitodv2/detectors_r50_rfp_rfla_1x"
