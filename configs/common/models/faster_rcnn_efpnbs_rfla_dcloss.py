"""E-FPN-BS behind the FPN, RFLA, and DCLoss in RPN and ROI head (SPEC §3.4)."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.losses import DCLoss
from d2tiny.modeling.necks import EFPNBS, NeckedBackbone

from .faster_rcnn_fpn_rfla import model

model.backbone = L(NeckedBackbone)(backbone=model.backbone, neck=L(EFPNBS)(channels=256))
model.proposal_generator.box_loss = L(DCLoss)(k=10.0, delta=0.15, mode="prose")
model.roi_heads.box_predictor.box_loss = L(DCLoss)(k=10.0, delta=0.15, mode="prose")
