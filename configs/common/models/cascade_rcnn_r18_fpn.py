"""A small Cascade R-CNN for quick trainings from scratch."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.losses import SmoothL1Loss

from .cascade_heads import roi_heads
from .faster_rcnn_r18_fpn import model

roi_heads.batch_size_per_image = 128
for head, predictor in zip(roi_heads.box_heads, roi_heads.box_predictors, strict=True):
    head.input_shape.channels = 64
    head.fc_dims = [256, 256]
    predictor.input_shape.channels = 256
    predictor.test_topk_per_image = 1500
model.roi_heads = roi_heads
model.proposal_generator.box_loss = L(SmoothL1Loss)(beta=1 / 9)
