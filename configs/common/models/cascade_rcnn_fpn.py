"""Cascade R-CNN with a ResNet-50 FPN, as the AI-TOD papers set it (SPEC §0, §9)."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.losses import SmoothL1Loss

from .cascade_heads import roi_heads
from .faster_rcnn_fpn import model

model.roi_heads = roi_heads
model.proposal_generator.box_loss = L(SmoothL1Loss)(beta=1 / 9)
model.proposal_generator.anchor_boundary_thresh = 0  # only anchors inside the image are trained
