"""Quick DetectoRS with RFLA, E-FPN-BS and DCLoss on aerial_*."""

from ..common.data.aerial_large_crops import dataloader
from ..common.models.detectors_r18 import model
from ..common.parts import dcloss, efpnbs, rfla
from .faster_rcnn_r18_fpn_maxiou import lr_multiplier, optimizer, train

rfla(model)
efpnbs(model)
dcloss(model)
train.output_dir = "output/quick/detectors_r18_efpnbs_rfla_dcloss"
