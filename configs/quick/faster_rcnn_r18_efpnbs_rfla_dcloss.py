"""Quick Faster R-CNN with RFLA, E-FPN-BS and DCLoss on aerial_*."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.losses import DCLoss
from d2tiny.modeling.necks import EFPNBS, NeckedBackbone

from .faster_rcnn_r18_fpn_rfla import dataloader, lr_multiplier, model, optimizer, train

# Gates as narrow as the pyramid: a quarter of its channels, as 64 of 256 in the paper's model.
model.backbone = L(NeckedBackbone)(backbone=model.backbone, neck=L(EFPNBS)(channels=64, mid_channels=16))
model.proposal_generator.box_loss = L(DCLoss)(k=10.0, delta=0.15, mode="prose")
model.roi_heads.box_predictor.box_loss = L(DCLoss)(k=10.0, delta=0.15, mode="prose")
train.output_dir = "output/quick/faster_rcnn_r18_efpnbs_rfla_dcloss"
