"""RetinaNet with RFLA on AI-TOD."""

from ..common.models.retinanet import model
from ..common.parts import rfla_dense
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

rfla_dense(model)
train.output_dir = "output/aitod/retinanet_r50_fpn_rfla_1x"
