"""YOLOX, YOLOv5, YOLO11 and RS-TinyNet on AI-TOD."""

import math

from ..common.data import aitod
from ..common.models.yolo import yolo11, yolov5, yolox
from ..common.parts.yolo import arb, l1, mdca, p2, pfdh_literal, sal, sarl, tiny_candidates
from ..common.recipes import experiment, ultralytics_sgd, yolox_sgd

DATASET = aitod()
K = DATASET.num_classes
BATCH = 4  # of SARL and SAL; RS-TinyNet's is 16


def yolo11_l_600e():
    """YOLO11l on AI-TOD, 600 epochs."""
    return experiment(yolo11("l", K), ultralytics_sgd(DATASET, epochs=600))


def yolo11_m_arb_600e():
    """YOLO11m with ARB on AI-TOD (RS-TinyNet, table III)."""
    return experiment(arb(yolo11("m", K)), ultralytics_sgd(DATASET, epochs=600))


def yolo11_m_arb_pfdh_600e():
    """YOLO11m with ARB and PFDH on AI-TOD (RS-TinyNet, table III)."""
    return experiment(pfdh_literal(arb(yolo11("m", K))), ultralytics_sgd(DATASET, epochs=600))


def yolo11_m_mdca_600e():
    """YOLO11m with MDCA on AI-TOD (RS-TinyNet, table III)."""
    return experiment(mdca(yolo11("m", K)), ultralytics_sgd(DATASET, epochs=600))


def yolo11_m_mdca_arb_600e():
    """YOLO11m with MDCA and ARB on AI-TOD (RS-TinyNet, table III)."""
    return experiment(arb(mdca(yolo11("m", K))), ultralytics_sgd(DATASET, epochs=600))


def yolo11_m_mdca_pfdh_600e():
    """YOLO11m with MDCA and PFDH on AI-TOD (RS-TinyNet, table III)."""
    return experiment(pfdh_literal(mdca(yolo11("m", K))), ultralytics_sgd(DATASET, epochs=600))


def yolo11_m_p2_600e():
    """YOLO11m with a level of stride 4 on AI-TOD."""
    return experiment(p2(yolo11("m", K)), ultralytics_sgd(DATASET, epochs=600))


def yolo11_m_pfdh_600e():
    """YOLO11m with PFDH on AI-TOD (RS-TinyNet, table III)."""
    return experiment(pfdh_literal(yolo11("m", K)), ultralytics_sgd(DATASET, epochs=600))


def yolo11_m_tinytal_600e():
    """YOLO11m with candidates for the tiniest objects on AI-TOD: those that contain no place of stride 8."""
    return experiment(tiny_candidates(yolo11("m", K)), ultralytics_sgd(DATASET, epochs=600))


def yolo11_n_600e():
    """YOLO11n on AI-TOD, 600 epochs."""
    return experiment(yolo11("n", K), ultralytics_sgd(DATASET, epochs=600))


def yolo11_s_600e():
    """YOLO11s on AI-TOD, 600 epochs."""
    return experiment(yolo11("s", K), ultralytics_sgd(DATASET, epochs=600))


def yolov5_l_300e():
    """YOLOv5-l on AI-TOD, 300 epochs."""
    return experiment(yolov5("l", K), ultralytics_sgd(DATASET, epochs=300, batch_size=BATCH))


def yolov5_m_300e():
    """YOLOv5-m on AI-TOD, 300 epochs."""
    return experiment(yolov5("m", K), ultralytics_sgd(DATASET, epochs=300, batch_size=BATCH))


def yolov5_m_sal_300e():
    """YOLOv5-m with the scale-adaptive loss on AI-TOD."""
    return experiment(sal(yolov5("m", K)), ultralytics_sgd(DATASET, epochs=300, batch_size=BATCH))


def yolov5_m_sarl_300e():
    """YOLOv5-m with the SARL relay on AI-TOD."""
    return experiment(sarl(yolov5("m", K)), ultralytics_sgd(DATASET, epochs=300, batch_size=BATCH))


def yolov5_m_sarl_sal_300e():
    """YOLOv5-m with relay and scale-adaptive loss on AI-TOD."""
    return experiment(sal(sarl(yolov5("m", K))), ultralytics_sgd(DATASET, epochs=300, batch_size=BATCH))


def yolov5_s_300e():
    """YOLOv5-s on AI-TOD, 300 epochs."""
    return experiment(yolov5("s", K), ultralytics_sgd(DATASET, epochs=300, batch_size=BATCH))


def yolox_l_300e():
    """YOLOX-l on AI-TOD, 300 epochs."""
    return experiment(yolox("l", K), yolox_sgd(DATASET, epochs=300, batch_size=BATCH))


def yolox_m_l1_300e():
    """YOLOX-m with L1 throughout on AI-TOD, as the rows of SAL have it."""
    return experiment(l1(yolox("m", K)), yolox_sgd(DATASET, epochs=300, batch_size=BATCH))


def yolox_m_sal_300e():
    """YOLOX-m with the scale-adaptive loss on AI-TOD."""
    return experiment(sal(yolox("m", K)), yolox_sgd(DATASET, epochs=300, batch_size=BATCH))


def yolox_m_sarl_300e():
    """YOLOX-m with the SARL relay on AI-TOD."""
    return experiment(sarl(yolox("m", K)), yolox_sgd(DATASET, epochs=300, batch_size=BATCH))


def yolox_m_sarl_sal_beta1_300e():
    """YOLOX-m with relay and scale-adaptive loss, β = 1 (table VII)."""
    return experiment(sal(sarl(yolox("m", K)), beta=1.0), yolox_sgd(DATASET, epochs=300, batch_size=BATCH))


def yolox_m_sarl_sal_betaln2_300e():
    """YOLOX-m with relay and scale-adaptive loss, β = 1/ln 2 (table VII)."""
    return experiment(sal(sarl(yolox("m", K)), beta=1 / math.log(2)), yolox_sgd(DATASET, epochs=300, batch_size=BATCH))


def yolox_s_300e():
    """YOLOX-s on AI-TOD, 300 epochs."""
    return experiment(yolox("s", K), yolox_sgd(DATASET, epochs=300, batch_size=BATCH))
