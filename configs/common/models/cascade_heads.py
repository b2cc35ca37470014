"""Cascade R-CNN heads of the AI-TOD papers, in the place of a model's ROI heads."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher

from d2tiny.modeling.losses import SmoothL1Loss
from d2tiny.modeling.roi_heads import TinyCascadeROIHeads, TinyFastRCNNOutputLayers

from .faster_rcnn_fpn import model as faster_rcnn

single = faster_rcnn.roi_heads
roi_heads = L(TinyCascadeROIHeads)(
    num_classes=single.num_classes,
    batch_size_per_image=single.batch_size_per_image,
    positive_fraction=single.positive_fraction,
    proposal_matchers=[
        L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False) for iou in (0.5, 0.6, 0.7)
    ],
    box_in_features=single.box_in_features,
    box_pooler=single.box_pooler,
    box_heads=[single.box_head for _ in range(3)],
    box_predictors=[
        L(TinyFastRCNNOutputLayers)(
            input_shape=L(ShapeSpec)(channels=1024),
            num_classes="${...num_classes}",
            cls_agnostic_bbox_reg=True,
            box2box_transform=L(Box2BoxTransform)(weights=weights),
            box_loss=L(SmoothL1Loss)(beta=1.0),
            test_score_thresh=0.05,
            test_nms_thresh=0.5,
            test_topk_per_image=3000,
        )
        for weights in ([10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [30.0, 30.0, 15.0, 15.0])
    ],
    stage_loss_weights=[1.0, 0.5, 0.25],
    scale_gradient=False,
)
