"""YOLOv5-s (SPEC §8.2) with the anchors for tiny objects; `d2tiny anchors` fits others to your data."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.assigners import RatioAssigner
from d2tiny.modeling.dense_heads import YOLOv5Head
from d2tiny.modeling.losses import IoULoss

from ..yolo import yolo_size
from .yolox import model

model.backbone.backbone.variant = "yolov5"
model.head = L(YOLOv5Head)(
    num_classes=8,
    in_channels=[128, 256, 512],
    strides=[8, 16, 32],
    anchors=[
        [[4, 4], [7, 7], [11, 11]],
        [[15, 15], [21, 21], [29, 29]],
        [[40, 40], [60, 60], [90, 90]],
    ],
    assigner=L(RatioAssigner)(max_ratio=4.0),
    box_loss=L(IoULoss)(kind="ciou"),
    balance=[4.0, 1.0, 0.4],
    score_thresh=0.001,
    nms_thresh=0.6,
    pre_nms_topk=3000,
    max_detections=1500,
)
model.pixel_std = [255.0, 255.0, 255.0]
model.input_format = "RGB"
yolo_size(model, "s")
