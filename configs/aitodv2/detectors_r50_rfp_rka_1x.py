"""DetectoRS with NWD-RKA on AI-TOD-v2."""

from ..aitod.detectors_r50_rfp_rka_1x import lr_multiplier, model, optimizer, train
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader

dataloader.train.total_batch_size = 8
train.output_dir = "output/aitodv2/detectors_r50_rfp_rka_1x"
