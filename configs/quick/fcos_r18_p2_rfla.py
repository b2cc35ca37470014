"""Quick FCOS on P2-P6 with RFLA on aerial_*."""

from ..common.models.faster_rcnn_r18_fpn import model as small
from ..common.models.fcos_p2 import model
from ..common.parts import quick_dense, rfla_dense
from .faster_rcnn_r18_fpn_maxiou import dataloader, lr_multiplier, optimizer, train

quick_dense(model, small)
rfla_dense(model)
train.output_dir = "output/quick/fcos_r18_p2_rfla"
