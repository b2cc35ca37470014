"""YOLOX-s (Ge et al., 2021; SPEC §8.1): raw BGR values, SimOTA, 1 − IoU²."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.assigners import SimOTAAssigner
from d2tiny.modeling.backbone import CSPDarknet
from d2tiny.modeling.dense_heads import YOLOXHead
from d2tiny.modeling.losses import IoULoss
from d2tiny.modeling.meta_arch import TinyDenseDetector
from d2tiny.modeling.necks import PAFPN, NeckedBackbone

from ..yolo import yolo_size

model = L(TinyDenseDetector)(
    backbone=L(NeckedBackbone)(
        backbone=L(CSPDarknet)(depth=0.33, width=0.5, variant="yolox", out_features=["c3", "c4", "c5"]),
        neck=L(PAFPN)(
            in_channels=[128, 256, 512],
            out_channels=[128, 256, 512],
            in_features=["c3", "c4", "c5"],
            repeats=1,
            block="csp",
        ),
    ),
    in_features=["p3", "p4", "p5"],
    head=L(YOLOXHead)(
        num_classes=8,
        in_channels=[128, 256, 512],
        width=128,
        strides=[8, 16, 32],
        assigner=L(SimOTAAssigner)(radius=1.5),
        box_loss=L(IoULoss)(kind="iou2"),
        box_weight=5.0,
        l1_weight=0.0,
        score_thresh=0.01,
        nms_thresh=0.65,
        pre_nms_topk=3000,
        max_detections=3000,
    ),
    pixel_mean=[0.0, 0.0, 0.0],
    pixel_std=[1.0, 1.0, 1.0],
    input_format="BGR",
)
yolo_size(model, "s")
