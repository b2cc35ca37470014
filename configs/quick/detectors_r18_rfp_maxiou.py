"""Quick DetectoRS baseline on aerial_*: anchors of 8 × stride, IoU assignment."""

from ..common.data.aerial_large_crops import dataloader
from ..common.models.detectors_r18 import model
from .faster_rcnn_r18_fpn_maxiou import lr_multiplier, optimizer, train

train.output_dir = "output/quick/detectors_r18_rfp_maxiou"
