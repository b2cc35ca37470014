"""DetectoRS with RFLA, E-FPN-BS and DCLoss on AI-TOD (the "*" rows of arXiv 2506.09897)."""

from ..common.models.detectors import model
from ..common.parts import dcloss, efpnbs, rfla
from .faster_rcnn_r50_fpn_maxiou_1x import dataloader, lr_multiplier, optimizer, train

rfla(model)
efpnbs(model)
dcloss(model)
train.output_dir = "output/aitod/detectors_r50_efpnbs_rfla_dcloss_1x"
