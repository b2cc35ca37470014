"""Quick Faster R-CNN with RFLA on aerial_*."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.assigners import HLAAssigner
from d2tiny.modeling.priors import RFAnchorGenerator

from .faster_rcnn_r18_fpn_maxiou import dataloader, lr_multiplier, model, optimizer, train

model.proposal_generator.anchor_generator = L(RFAnchorGenerator)(
    strides=[4, 8, 16, 32, 64], fraction=0.5, aspect_ratios=[0.5, 1.0, 2.0], offset=0.0
)
model.proposal_generator.assigner = L(HLAAssigner)(metric="kld", topk=(3, 1), ratio=0.9)
train.output_dir = "output/quick/faster_rcnn_r18_fpn_rfla"
