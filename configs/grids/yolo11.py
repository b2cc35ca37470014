"""YOLO11 and RS-TinyNet on the benchmarks of the tables of tiny-object papers."""

from ..common.models.yolo import yolo11
from ..common.parts.yolo import rs_tinynet_literal
from ..common.recipes import experiment, ultralytics_sgd

DATASETS = ("aitod", "aitodv2")


def rs_tinynet_m_600e(dataset):
    """RS-TinyNet: YOLO11m with MDCA, ARB and PFDH."""
    return experiment(rs_tinynet_literal(yolo11("m", dataset.num_classes)), ultralytics_sgd(dataset, epochs=600))


def yolo11_m_600e(dataset):
    """YOLO11m, 600 epochs."""
    return experiment(yolo11("m", dataset.num_classes), ultralytics_sgd(dataset, epochs=600))
