"""YOLO11m (SPEC §7.1): values in [0, 1], TAL, 1 − CIoU and DFL."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.assigners import TALAssigner
from d2tiny.modeling.backbone import YOLO11Backbone
from d2tiny.modeling.dense_heads import YOLO11Head
from d2tiny.modeling.losses import IoULoss
from d2tiny.modeling.meta_arch import TinyDenseDetector
from d2tiny.modeling.necks import PAFPN, NeckedBackbone

from ..yolo import yolo_size

model = L(TinyDenseDetector)(
    backbone=L(NeckedBackbone)(
        backbone=L(YOLO11Backbone)(
            depth=0.5, width=1.0, max_channels=512, c3k=True, out_features=["c2", "c3", "c4", "c5"]
        ),
        neck=L(PAFPN)(
            in_channels=[512, 512, 512],
            out_channels=[256, 512, 512],
            in_features=["c3", "c4", "c5"],
            repeats=1,
            block="c3k2",
            c3k=True,
        ),
    ),
    in_features=["p3", "p4", "p5"],
    head=L(YOLO11Head)(
        num_classes=8,
        in_channels=[256, 512, 512],
        strides=[8, 16, 32],
        assigner=L(TALAssigner)(topk=10, alpha=0.5, beta=6.0, min_candidate_size=0.0),
        box_loss=L(IoULoss)(kind="ciou"),
        score_thresh=0.001,
        nms_thresh=0.7,
        pre_nms_topk=3000,
        max_detections=1500,
    ),
    pixel_mean=[0.0, 0.0, 0.0],
    pixel_std=[255.0, 255.0, 255.0],
    input_format="RGB",
)
yolo_size(model, "m")
