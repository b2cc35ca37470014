"""Dense heads: they predict classes and boxes at every prior of a feature pyramid."""

from typing import TYPE_CHECKING, Any

from d2tiny.modeling.dense_heads.base import BaseDenseHead
from d2tiny.modeling.dense_heads.dense_head import TinyDenseHead
from d2tiny.modeling.dense_heads.yolo import YOLOHead
from d2tiny.modeling.dense_heads.yolo11 import YOLO11Head
from d2tiny.modeling.dense_heads.yolov5 import YOLOv5Head
from d2tiny.modeling.dense_heads.yolox import YOLOXHead

if TYPE_CHECKING:  # mypy checks here that the heads fulfil the contract
    from d2tiny.modeling.contracts import DenseHead

    _HEADS: list[type[DenseHead[Any]]] = [TinyDenseHead, YOLO11Head, YOLOv5Head, YOLOXHead]

__all__ = ["BaseDenseHead", "TinyDenseHead", "YOLO11Head", "YOLOHead", "YOLOXHead", "YOLOv5Head"]
