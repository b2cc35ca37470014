"""YOLOX, YOLOv5, YOLO11 and RS-TinyNet on tiles of DOTA-v2.0."""

from ..common.data import dotav2
from ..common.models.yolo import yolox
from ..common.parts.yolo import sal, sarl
from ..common.recipes import experiment, yolox_sgd

DATASET = dotav2()
K = DATASET.num_classes


def yolox_m_300e():
    """YOLOX-m on DOTA-v2.0 tiles, 300 epochs."""
    return experiment(yolox("m", K), yolox_sgd(DATASET, epochs=300))


def yolox_m_sarl_sal_300e():
    """YOLOX-m with relay and scale-adaptive loss on DOTA-v2.0 tiles."""
    return experiment(sal(sarl(yolox("m", K))), yolox_sgd(DATASET, epochs=300))
