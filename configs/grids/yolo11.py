"""YOLO11 and RS-TinyNet on the benchmarks of the tables of tiny-object papers."""

from ..common.models.yolo import yolo11
from ..common.parts.yolo import rs_tinynet_literal
from ..common.recipes import experiment, ultralytics_sgd

DATASETS = ("aitod", "aitodv2")


def rs_tinynet_m_600e(dataset):
    """RS-TinyNet: YOLO11m with MDCA, ARB and PFDH.

    The paper's settings. An object that contains no place of stride 8 is never learned: 12 % of those of aerial_*,
    about 40 % of those under 8 px. `tiny_candidates` is the cure: `aitod/yolo11_m_tinytal_600e`, or for any YOLO11
    `model.head.assigner.min_candidate_size=8`.
    """
    return experiment(rs_tinynet_literal(yolo11("m", dataset.num_classes)), ultralytics_sgd(dataset, epochs=600))


def yolo11_m_600e(dataset):
    """YOLO11m, 600 epochs.

    As released; for objects under 8 px take `aitod/yolo11_m_tinytal_600e`.
    """
    return experiment(yolo11("m", dataset.num_classes), ultralytics_sgd(dataset, epochs=600))
