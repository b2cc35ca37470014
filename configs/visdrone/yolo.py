"""YOLOX, YOLOv5, YOLO11 and RS-TinyNet on VisDrone-DET."""

from ..common.data import visdrone
from ..common.models.yolo import yolox
from ..common.parts.yolo import sal, sarl
from ..common.recipes import experiment, yolox_sgd

DATASET = visdrone()
K = DATASET.num_classes


def yolox_m_300e():
    """YOLOX-m on VisDrone-DET, 300 epochs."""
    return experiment(yolox("m", K), yolox_sgd(DATASET, epochs=300))


def yolox_m_sarl_sal_300e():
    """YOLOX-m with relay and scale-adaptive loss on VisDrone-DET."""
    return experiment(sal(sarl(yolox("m", K))), yolox_sgd(DATASET, epochs=300))
