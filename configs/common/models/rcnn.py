"""Faster R-CNN, Cascade R-CNN and DetectoRS as the AI-TOD papers set them, with a ResNet-50 or, small, a ResNet-18."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from d2tiny.modeling.assigners import MaxIoUAssigner
from d2tiny.modeling.backbone import TimmBackbone
from d2tiny.modeling.losses import SmoothL1Loss
from d2tiny.modeling.meta_arch import TinyGeneralizedRCNN
from d2tiny.modeling.proposal_generator import TinyRPN
from d2tiny.modeling.roi_heads import TinyCascadeROIHeads, TinyFastRCNNOutputLayers, TinyStandardROIHeads

from ..parts.rcnn import detectors, recursive

CONVNEXT_T, R50_RSB = "convnext_tiny.fb_in1k", "resnet50.a1_in1k"  # names of timm
SWIN_T, SWIN_S = (f"swin_{size}_patch4_window7_224.ms_in1k" for size in ("tiny", "small"))
PIXEL_MEAN, PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # ImageNet's, RGB


def resnet50(out_features=("res2", "res3", "res4", "res5"), freeze_at=2):
    """ResNet-50 for ImageNet weights."""
    return L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=False, norm="FrozenBN"),
        out_features=list(out_features),
        freeze_at=freeze_at,
    )


def resnet18(out_features=("res2", "res3", "res4", "res5")):
    """ResNet-18 for random weights: with frozen batch norm it would diverge at once, so its statistics are trained."""
    return L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
        stages=L(ResNet.make_default_stages)(depth=18, norm="BN"),
        out_features=list(out_features),
        freeze_at=0,
    )


def timm_backbone(model_name, **settings):
    """A model of timm, for its ImageNet weights: ``train.init_checkpoint=timm://NAME``."""
    return L(TimmBackbone)(model_name=model_name, out_features=["res2", "res3", "res4", "res5"], **settings)


def for_weights_of(backbone, model):
    """The model on another backbone, with the same stages, and images normalised as its weights were trained."""
    place = "bottom_up" if "bottom_up" in model.backbone else "backbone"
    backbone.out_features = list(model.backbone[place].out_features)
    model.backbone[place] = backbone
    model.pixel_mean, model.pixel_std = "${pixel_mean:${.backbone}}", "${pixel_std:${.backbone}}"
    return model


def fpn(bottom_up, out_channels=256):
    """FPN on all features of a backbone, with one more level by pooling."""
    return L(FPN)(
        bottom_up=bottom_up,
        in_features="${.bottom_up.out_features}",
        out_channels=out_channels,
        top_block=L(LastLevelMaxPool)(),
    )


def _faster_rcnn(backbone, num_classes):
    return L(TinyGeneralizedRCNN)(
        backbone=backbone,
        proposal_generator=L(TinyRPN)(
            in_features=["p2", "p3", "p4", "p5", "p6"],
            head=L(StandardRPNHead)(in_channels="${channels:${...backbone}}", num_anchors=3),
            anchor_generator=L(DefaultAnchorGenerator)(
                sizes=[[32], [64], [128], [256], [512]],
                aspect_ratios=[0.5, 1.0, 2.0],
                strides=[4, 8, 16, 32, 64],
                offset=0.0,
            ),
            assigner=L(MaxIoUAssigner)(pos_iou=0.7, neg_iou=0.3),
            box_loss=L(SmoothL1Loss)(beta=0.0),
            box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_topk=(3000, 3000),
            post_nms_topk=(3000, 3000),
            nms_thresh=0.7,
        ),
        roi_heads=L(TinyStandardROIHeads)(
            num_classes=num_classes,
            batch_size_per_image=512,
            positive_fraction=0.25,
            proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
            box_in_features=["p2", "p3", "p4", "p5"],
            box_pooler=L(ROIPooler)(
                output_size=7,
                scales=(1.0 / 4, 1.0 / 8, 1.0 / 16, 1.0 / 32),
                sampling_ratio=0,
                pooler_type="ROIAlignV2",
            ),
            box_head=L(FastRCNNConvFCHead)(
                input_shape=L(ShapeSpec)(channels="${channels:${....backbone}}", height=7, width=7),
                conv_dims=[],
                fc_dims=[1024, 1024],
            ),
            box_predictor=L(TinyFastRCNNOutputLayers)(
                input_shape=L(ShapeSpec)(channels="${last:${...box_head.fc_dims}}"),
                num_classes="${..num_classes}",
                box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
                box_loss=L(SmoothL1Loss)(beta=0.0),
                test_score_thresh=0.05,
                test_nms_thresh=0.5,
                test_topk_per_image=3000,
            ),
        ),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
        input_format="RGB",
    )


def faster_rcnn_r50(num_classes):
    """Faster R-CNN with a ResNet-50 FPN and anchors of 8 x stride."""
    return _faster_rcnn(fpn(resnet50()), num_classes)


def faster_rcnn_r18(num_classes):
    """A small Faster R-CNN for quick trainings from random weights: ResNet-18, 64-channel FPN, narrow heads."""
    model = _faster_rcnn(fpn(resnet18(), 64), num_classes)
    rpn, roi = model.proposal_generator, model.roi_heads
    rpn.pre_nms_topk, rpn.post_nms_topk = (1000, 1000), (300, 1000)
    roi.batch_size_per_image = 128
    roi.box_head.fc_dims = [256, 256]
    roi.box_predictor.test_topk_per_image = 1500
    return model


def lite0():
    """EfficientNet-Lite0, whose ImageNet weights a package holds: a backbone for processors."""
    return timm_backbone("tf_efficientnet_lite0")


def on_lite0(model):
    """The model on EfficientNet-Lite0."""
    return for_weights_of(lite0(), model)


def faster_rcnn_lite0(num_classes):
    """A small Faster R-CNN for quick trainings from ImageNet weights: EfficientNet-Lite0, narrow neck and heads."""
    return on_lite0(faster_rcnn_r18(num_classes))


def _cascade(model):
    """Three stages in the place of one box head, each with the settings of that box head."""
    single = model.roi_heads
    box_head = single.box_head
    box_head.input_shape.channels = "${channels:${.....backbone}}"
    model.roi_heads = L(TinyCascadeROIHeads)(
        num_classes=single.num_classes,
        batch_size_per_image=single.batch_size_per_image,
        positive_fraction=single.positive_fraction,
        proposal_matchers=[
            L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False) for iou in (0.5, 0.6, 0.7)
        ],
        box_in_features=single.box_in_features,
        box_pooler=single.box_pooler,
        box_heads=[box_head for _ in range(3)],
        box_predictors=[
            L(TinyFastRCNNOutputLayers)(
                input_shape=L(ShapeSpec)(channels=f"${{last:${{....box_heads.{stage}.fc_dims}}}}"),
                num_classes="${...num_classes}",
                cls_agnostic_bbox_reg=True,
                box2box_transform=L(Box2BoxTransform)(weights=weights),
                box_loss=L(SmoothL1Loss)(beta=1.0),
                test_score_thresh=0.05,
                test_nms_thresh=0.5,
                test_topk_per_image=single.box_predictor.test_topk_per_image,
            )
            for stage, weights in enumerate(
                ([10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [30.0, 30.0, 15.0, 15.0])
            )
        ],
        stage_loss_weights=[1.0, 0.5, 0.25],
        scale_gradient=False,
    )
    model.proposal_generator.box_loss = L(SmoothL1Loss)(beta=1 / 9)
    return model


def cascade_rcnn_r50(num_classes):
    """Cascade R-CNN with a ResNet-50 FPN; only anchors inside the image are trained."""
    model = _cascade(faster_rcnn_r50(num_classes))
    model.proposal_generator.anchor_boundary_thresh = 0
    return model


def cascade_rcnn_lite0(num_classes):
    """A small Cascade R-CNN for quick trainings from ImageNet weights."""
    return _cascade(faster_rcnn_lite0(num_classes))


def cascade_rcnn_r18(num_classes):
    """A small Cascade R-CNN for quick trainings from random weights."""
    return _cascade(faster_rcnn_r18(num_classes))


def detectors_r50(num_classes):
    """DetectoRS: Cascade R-CNN on a recursive pyramid of ResNet-50 with switchable atrous convolutions."""
    return detectors(cascade_rcnn_r50(num_classes))


def detectors_r18(num_classes):
    """A small DetectoRS for quick trainings from random weights."""
    return detectors(cascade_rcnn_r18(num_classes))


def detectors_lite0(num_classes):
    """Cascade R-CNN on a recursive pyramid of EfficientNet-Lite0: DetectoRS without switchable convolutions."""
    return recursive(cascade_rcnn_lite0(num_classes))
