"""FCOS with RFLA on AI-TOD."""

from ..common.models.fcos import model
from ..common.parts import rfla_dense
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

rfla_dense(model)
train.output_dir = "output/aitod/fcos_r50_p3_rfla_1x"
