"""FCOS with a ResNet-50 FPN on P3-P7, as RFLA's tables have it (SPEC §1.2, §1.4)."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransformLinear
from detectron2.modeling.meta_arch.fcos import FCOSHead

from d2tiny.modeling.assigners import FCOSAssigner
from d2tiny.modeling.dense_heads import TinyDenseHead
from d2tiny.modeling.losses import IoULoss
from d2tiny.modeling.meta_arch import TinyDenseDetector

from .faster_rcnn_fpn import model as faster_rcnn

backbone = faster_rcnn.backbone
backbone.bottom_up.out_features = ["res3", "res4", "res5"]
backbone.top_block = L(LastLevelP6P7)(in_channels=256, out_channels=256, in_feature="p5")

model = L(TinyDenseDetector)(
    backbone=backbone,
    in_features=["p3", "p4", "p5", "p6", "p7"],
    head=L(TinyDenseHead)(
        num_classes=8,
        net=L(FCOSHead)(
            input_shape=[L(ShapeSpec)(channels=256) for _ in range(5)],
            num_classes="${..num_classes}",
            conv_dims=[256, 256, 256, 256],
            norm="GN",
        ),
        # Squares of the stride around the points: what boxes are regressed from, and the levels' ranges.
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[8], [16], [32], [64], [128]], aspect_ratios=[1.0], strides=[8, 16, 32, 64, 128], offset=0.5
        ),
        assigner=L(FCOSAssigner)(center_radius=1.5),
        box_loss=L(IoULoss)(kind="diou"),
        box2box_transform=L(Box2BoxTransformLinear)(normalize_by_size=True),
        score_thresh=0.05,
        nms_thresh=0.5,
        pre_nms_topk=3000,
        max_detections=3000,
    ),
    pixel_mean=faster_rcnn.pixel_mean,
    pixel_std=faster_rcnn.pixel_std,
)
