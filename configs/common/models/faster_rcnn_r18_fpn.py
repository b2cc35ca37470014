"""A small Faster R-CNN for quick trainings from scratch: ResNet-18, 64-channel FPN, narrow heads."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import ResNet

from .faster_rcnn_fpn import model

# FrozenBN with random weights diverges at once, so the statistics are trained.
bottom_up = model.backbone.bottom_up
bottom_up.stem.norm = "BN"
bottom_up.stages = L(ResNet.make_default_stages)(depth=18, norm="BN")
bottom_up.freeze_at = 0
model.backbone.out_channels = 64
rpn = model.proposal_generator
rpn.head.in_channels = 64
rpn.pre_nms_topk = (1000, 1000)
rpn.post_nms_topk = (300, 1000)
roi = model.roi_heads
roi.batch_size_per_image = 128
roi.box_head.input_shape.channels = 64
roi.box_head.fc_dims = [256, 256]
roi.box_predictor.input_shape.channels = 256
roi.box_predictor.test_topk_per_image = 1500
