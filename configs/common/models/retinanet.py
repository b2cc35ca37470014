"""RetinaNet with a ResNet-50 FPN on P3-P7; one anchor size a level."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead

from d2tiny.modeling.assigners import MaxIoUAssigner
from d2tiny.modeling.losses import SmoothL1Loss

from .fcos import model

head = model.head
head.net = L(RetinaNetHead)(
    input_shape=[L(ShapeSpec)(channels=256) for _ in range(5)],
    num_classes="${..num_classes}",
    num_anchors=3,
    conv_dims=[256, 256, 256, 256],
)
head.anchor_generator = L(DefaultAnchorGenerator)(
    sizes=[[32], [64], [128], [256], [512]],
    aspect_ratios=[0.5, 1.0, 2.0],
    strides=[8, 16, 32, 64, 128],
    offset=0.0,
)
head.assigner = L(MaxIoUAssigner)(pos_iou=0.5, neg_iou=0.4)
head.box_loss = L(SmoothL1Loss)(beta=0.0)
head.box2box_transform = L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0])
