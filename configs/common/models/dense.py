"""FCOS and RetinaNet as RFLA's tables have them, with a ResNet-50 FPN or, small, a ResNet-18."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformLinear
from detectron2.modeling.meta_arch.fcos import FCOSHead
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead

from d2tiny.modeling.assigners import FCOSAssigner, MaxIoUAssigner
from d2tiny.modeling.dense_heads import TinyDenseHead
from d2tiny.modeling.losses import IoULoss, SmoothL1Loss
from d2tiny.modeling.meta_arch import TinyDenseDetector

from .rcnn import PIXEL_MEAN, PIXEL_STD, fpn, on_lite0, resnet18, resnet50


def _input_shape():
    """Shapes of the five levels that a head reads."""
    return [L(ShapeSpec)(channels="${channels:${.....backbone}}") for _ in range(5)]


def _p3_to_p7(bottom_up, out_channels=256):
    backbone = fpn(bottom_up, out_channels)
    backbone.top_block = L(LastLevelP6P7)(
        in_channels="${..out_channels}", out_channels="${..out_channels}", in_feature="p5"
    )
    return backbone


def _fcos(backbone, num_classes, conv_dims, max_detections):
    return L(TinyDenseDetector)(
        backbone=backbone,
        in_features=["p3", "p4", "p5", "p6", "p7"],
        head=L(TinyDenseHead)(
            num_classes=num_classes,
            net=L(FCOSHead)(input_shape=_input_shape(), num_classes="${..num_classes}", conv_dims=conv_dims, norm="GN"),
            # Squares of the stride around the points: boxes are regressed from them, and levels get their ranges.
            anchor_generator=L(DefaultAnchorGenerator)(
                sizes=[[8], [16], [32], [64], [128]], aspect_ratios=[1.0], strides=[8, 16, 32, 64, 128], offset=0.5
            ),
            assigner=L(FCOSAssigner)(center_radius=1.5),
            box_loss=L(IoULoss)(kind="diou"),
            box2box_transform=L(Box2BoxTransformLinear)(normalize_by_size=True),
            score_thresh=0.05,
            nms_thresh=0.5,
            pre_nms_topk=3000,
            max_detections=max_detections,
        ),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
        input_format="RGB",
    )


def fcos_r50(num_classes):
    """FCOS with a ResNet-50 FPN on P3-P7."""
    return _fcos(_p3_to_p7(resnet50(("res3", "res4", "res5"))), num_classes, [256] * 4, 3000)


def fcos_r18(num_classes):
    """A small FCOS for quick trainings from random weights."""
    return _fcos(_p3_to_p7(resnet18(("res3", "res4", "res5")), 64), num_classes, [64, 64], 1500)


def fcos_lite0(num_classes):
    """A small FCOS for quick trainings from ImageNet weights."""
    return on_lite0(fcos_r18(num_classes))


def from_p2(model):
    """Put FCOS on P2-P6, for the smallest objects."""
    model.backbone.bottom_up.out_features = ["res2", "res3", "res4", "res5"]
    model.backbone.top_block = L(LastLevelMaxPool)()
    model.in_features = ["p2", "p3", "p4", "p5", "p6"]
    model.head.anchor_generator.update(sizes=[[4], [8], [16], [32], [64]], strides=[4, 8, 16, 32, 64])
    return model


def _retinanet(model):
    """RetinaNet with one anchor size a level, in the place of FCOS."""
    head = model.head
    head.net = L(RetinaNetHead)(
        input_shape=_input_shape(), num_classes="${..num_classes}", num_anchors=3, conv_dims=head.net.conv_dims
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
    return model


def retinanet_r50(num_classes):
    """RetinaNet with a ResNet-50 FPN on P3-P7."""
    return _retinanet(fcos_r50(num_classes))


def retinanet_r18(num_classes):
    """A small RetinaNet for quick trainings from random weights."""
    return _retinanet(fcos_r18(num_classes))


def retinanet_lite0(num_classes):
    """A small RetinaNet for quick trainings from ImageNet weights."""
    return on_lite0(retinanet_r18(num_classes))
