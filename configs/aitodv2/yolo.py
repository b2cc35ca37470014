"""YOLOX, YOLOv5, YOLO11 and RS-TinyNet on AI-TOD-v2."""

from ..common.data import aitodv2
from ..common.models.yolo import yolo11, yolox
from ..common.parts.yolo import rs_tinynet, sal, sarl
from ..common.recipes import experiment, ultralytics_sgd, yolox_sgd

DATASET = aitodv2()
K = DATASET.num_classes


def rs_tinynet_m_600e():
    """RS-TinyNet on AI-TOD-v2."""
    return experiment(rs_tinynet(yolo11("m", K)), ultralytics_sgd(DATASET, epochs=600))


def yolo11_m_600e():
    """YOLO11m on AI-TOD-v2, 600 epochs."""
    return experiment(yolo11("m", K), ultralytics_sgd(DATASET, epochs=600))


def yolox_m_300e():
    """YOLOX-m on AI-TOD-v2, 300 epochs."""
    return experiment(yolox("m", K), yolox_sgd(DATASET, epochs=300))


def yolox_m_sarl_sal_300e():
    """YOLOX-m with relay and scale-adaptive loss on AI-TOD-v2."""
    return experiment(sal(sarl(yolox("m", K))), yolox_sgd(DATASET, epochs=300))
