"""Quick FCOS on P2-P6 with RFLA on aerial_*."""

from ..common.models.faster_rcnn_r18_fpn import model as small
from ..common.models.fcos_p2 import model
from ..common.parts import rfla_dense
from .faster_rcnn_r18_fpn_maxiou import dataloader, lr_multiplier, optimizer, train

model.backbone = small.backbone
rfla_dense(model)
model.head.net.conv_dims = [64, 64]
for shape in model.head.net.input_shape:
    shape.channels = 64
model.head.max_detections = 1500
train.output_dir = "output/quick/fcos_r18_p2_rfla"
