"""Cascade R-CNN heads of the AI-TOD papers, in the place of a model's ROI heads."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNConvFCHead

from d2tiny.modeling.losses import SmoothL1Loss
from d2tiny.modeling.roi_heads import TinyCascadeROIHeads, TinyFastRCNNOutputLayers

roi_heads = L(TinyCascadeROIHeads)(
    num_classes=8,
    batch_size_per_image=512,
    positive_fraction=0.25,
    proposal_matchers=[
        L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False) for iou in (0.5, 0.6, 0.7)
    ],
    box_in_features=["p2", "p3", "p4", "p5"],
    box_pooler=L(ROIPooler)(
        output_size=7,
        scales=(1.0 / 4, 1.0 / 8, 1.0 / 16, 1.0 / 32),
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
    ),
    box_heads=[
        L(FastRCNNConvFCHead)(
            input_shape=L(ShapeSpec)(channels=256, height=7, width=7), conv_dims=[], fc_dims=[1024, 1024]
        )
        for _ in range(3)
    ],
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
