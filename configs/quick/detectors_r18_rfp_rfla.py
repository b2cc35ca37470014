"""Quick DetectoRS with RFLA on aerial_*."""

from ..common.data.aerial_large_crops import dataloader
from ..common.models.detectors_r18 import model
from ..common.parts import rfla
from .faster_rcnn_r18_fpn_maxiou import lr_multiplier, optimizer, train

rfla(model)
train.output_dir = "output/quick/detectors_r18_rfp_rfla"
