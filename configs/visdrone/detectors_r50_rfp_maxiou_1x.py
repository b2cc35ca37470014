"""DetectoRS baseline on VisDrone-DET."""

from ..aitod.detectors_r50_rfp_maxiou_1x import model
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

train.output_dir = "output/visdrone/detectors_r50_rfp_maxiou_1x"
model.roi_heads.num_classes = 10
