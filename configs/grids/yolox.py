"""YOLOX on the benchmarks of the tables of tiny-object papers."""

from ..common.models.yolo import yolox
from ..common.parts.yolo import sal, sarl
from ..common.recipes import experiment, yolox_sgd

DATASETS = ("aitod", "aitodv2", "visdrone", "dotav2")


def yolox_m_300e(dataset):
    """YOLOX-m, 300 epochs."""
    return experiment(yolox("m", dataset.num_classes), yolox_sgd(dataset, epochs=300, batch_size=4))


def yolox_m_sarl_sal_300e(dataset):
    """YOLOX-m with relay and scale-adaptive loss."""
    return experiment(sal(sarl(yolox("m", dataset.num_classes))), yolox_sgd(dataset, epochs=300, batch_size=4))
