"""YOLOX and YOLO11 on HIT-UAV from ImageNet weights: their necks and heads on EfficientNet-Lite0, for processors.

Rows of YOLOX are comparable with one another, and so are rows of YOLO11: the same backbone, start weights and
recipe, one part apart. None is the YOLOX-s or YOLO11n of its authors, whose backbones have no ImageNet weights and
which are trained for hundreds of epochs with mosaics. The two families have different necks, heads and assigners:
with each other and with the R-CNNs they share backbone, budget and images alone.
"""

from ..common.data import hituav
from ..common.models.yolo import yolo11_lite0, yolox_lite0
from ..common.parts.yolo import arb, l1, mdca, p2, pfdh, pfdh_literal, rs_tinynet, sal, sarl
from ..common.recipes import experiment, whole_images

DATASET = hituav()
K = DATASET.num_classes


def rs_tinynet_lite0():
    """RS-TinyNet (MDCA, ARB, PFDH with a skip round it) with neck and head of YOLO11n on HIT-UAV."""
    return experiment(rs_tinynet(yolo11_lite0(K)), whole_images(DATASET))


def yolo11_lite0_n():
    """Neck and head of YOLO11n on HIT-UAV."""
    return experiment(yolo11_lite0(K), whole_images(DATASET))


def yolo11_lite0_n_arb():
    """Neck and head of YOLO11n with ARB on HIT-UAV."""
    return experiment(arb(yolo11_lite0(K)), whole_images(DATASET))


def yolo11_lite0_n_mdca():
    """Neck and head of YOLO11n with MDCA on HIT-UAV."""
    return experiment(mdca(yolo11_lite0(K)), whole_images(DATASET))


def yolo11_lite0_n_p2():
    """Neck and head of YOLO11n with a level of stride 4 on HIT-UAV."""
    return experiment(p2(yolo11_lite0(K)), whole_images(DATASET))


def yolo11_lite0_n_pfdh():
    """Neck and head of YOLO11n with PFDH, with a skip round it, on HIT-UAV."""
    return experiment(pfdh(yolo11_lite0(K)), whole_images(DATASET))


def yolo11_lite0_n_pfdh_literal():
    """Neck and head of YOLO11n with PFDH as the paper shows it on HIT-UAV."""
    return experiment(pfdh_literal(yolo11_lite0(K)), whole_images(DATASET))


def yolox_lite0_s():
    """Neck and head of YOLOX-s on HIT-UAV."""
    return experiment(yolox_lite0(K), whole_images(DATASET))


def yolox_lite0_s_l1():
    """Neck and head of YOLOX-s with L1 throughout on HIT-UAV, as the rows of SAL have it."""
    return experiment(l1(yolox_lite0(K)), whole_images(DATASET))


def yolox_lite0_s_sal():
    """Neck and head of YOLOX-s with the scale-adaptive loss (and L1) on HIT-UAV."""
    return experiment(sal(yolox_lite0(K)), whole_images(DATASET))


def yolox_lite0_s_sarl():
    """Neck and head of YOLOX-s with the SARL relay on HIT-UAV."""
    return experiment(sarl(yolox_lite0(K)), whole_images(DATASET))


def yolox_lite0_s_sarl_sal():
    """Neck and head of YOLOX-s with relay and scale-adaptive loss (and L1) on HIT-UAV."""
    return experiment(sal(sarl(yolox_lite0(K))), whole_images(DATASET))
