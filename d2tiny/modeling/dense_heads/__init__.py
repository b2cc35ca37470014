"""Heads that predict at every place of the pyramid."""

from d2tiny.modeling.dense_heads.common import DenseTargets
from d2tiny.modeling.dense_heads.dense_head import DenseHead
from d2tiny.modeling.dense_heads.yolo import YOLOHead
from d2tiny.modeling.dense_heads.yolo11 import YOLO11Head
from d2tiny.modeling.dense_heads.yolov5 import YOLOv5Head
from d2tiny.modeling.dense_heads.yolox import YOLOXHead

__all__ = ["DenseHead", "DenseTargets", "YOLO11Head", "YOLOHead", "YOLOXHead", "YOLOv5Head"]
