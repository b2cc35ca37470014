"""YOLOX, YOLOv5, YOLO11 and RS-TinyNet on DIOR."""

from ..common.data import dior
from ..common.models.yolo import yolo11, yolov5
from ..common.parts.yolo import rs_tinynet_literal
from ..common.recipes import experiment, ultralytics_sgd

DATASET = dior()
K = DATASET.num_classes


def rs_tinynet_m_600e():
    """RS-TinyNet on DIOR."""
    return experiment(rs_tinynet_literal(yolo11("m", K)), ultralytics_sgd(DATASET, epochs=600))


def yolo11_m_600e():
    """YOLO11m on DIOR."""
    return experiment(yolo11("m", K), ultralytics_sgd(DATASET, epochs=600))


def yolov5_m_600e():
    """YOLOv5-m on DIOR."""
    return experiment(yolov5("m", K), ultralytics_sgd(DATASET, epochs=600))
