"""YOLOX, YOLOv5, YOLO11 and RS-TinyNet on small aerial tiles: quick trainings on a processor."""

from ..common.data import aerial
from ..common.models.yolo import yolo11, yolo11_lite0, yolov5, yolox, yolox_lite0
from ..common.parts.yolo import (
    arb,
    l1,
    mdca,
    p2,
    pfdh,
    pfdh_literal,
    rs_tinynet,
    rs_tinynet_literal,
    sal,
    sarl,
    tiny_candidates,
)
from ..common.recipes import experiment, pretrained_quick, quick, with_mosaic

DATASET = aerial()
K = DATASET.num_classes


def rs_tinynet_lite0():
    """Quick RS-TinyNet (MDCA, ARB, PFDH) with YOLO11n's head on EfficientNet-Lite0, on aerial_*."""
    return experiment(rs_tinynet(yolo11_lite0(K)), pretrained_quick(DATASET))


def rs_tinynet_n():
    """Quick RS-TinyNet (YOLO11n with MDCA, ARB, PFDH) on aerial_*."""
    return experiment(rs_tinynet(yolo11("n", K)), quick(DATASET))


def rs_tinynet_n_literal():
    """Quick RS-TinyNet with PFDH as the paper shows it on aerial_*."""
    return experiment(rs_tinynet_literal(yolo11("n", K)), quick(DATASET))


def yolo11_lite0_n():
    """Quick YOLO11n neck and head on EfficientNet-Lite0, on aerial_*."""
    return experiment(yolo11_lite0(K), pretrained_quick(DATASET))


def yolo11_lite0_n_arb():
    """Quick YOLO11n neck and head on EfficientNet-Lite0, ARB, on aerial_*."""
    return experiment(arb(yolo11_lite0(K)), pretrained_quick(DATASET))


def yolo11_lite0_n_mdca():
    """Quick YOLO11n neck and head on EfficientNet-Lite0, MDCA, on aerial_*."""
    return experiment(mdca(yolo11_lite0(K)), pretrained_quick(DATASET))


def yolo11_lite0_n_p2():
    """Quick YOLO11n neck and head on EfficientNet-Lite0, a level of stride 4, on aerial_*."""
    return experiment(p2(yolo11_lite0(K)), pretrained_quick(DATASET))


def yolo11_lite0_n_pfdh():
    """Quick YOLO11n neck and head on EfficientNet-Lite0, PFDH with a skip round it, on aerial_*."""
    return experiment(pfdh(yolo11_lite0(K)), pretrained_quick(DATASET))


def yolo11_lite0_n_pfdh_literal():
    """Quick YOLO11n neck and head on EfficientNet-Lite0, PFDH as the paper shows it, on aerial_*."""
    return experiment(pfdh_literal(yolo11_lite0(K)), pretrained_quick(DATASET))


def yolo11_n():
    """Quick YOLO11n on aerial_*."""
    return experiment(yolo11("n", K), quick(DATASET))


def yolo11_n_arb():
    """Quick YOLO11n with ARB on aerial_*."""
    return experiment(arb(yolo11("n", K)), quick(DATASET))


def yolo11_n_mdca():
    """Quick YOLO11n with MDCA on aerial_*."""
    return experiment(mdca(yolo11("n", K)), quick(DATASET))


def yolo11_n_p2():
    """Quick YOLO11n with a level of stride 4 on aerial_*."""
    return experiment(p2(yolo11("n", K)), quick(DATASET))


def yolo11_n_pfdh():
    """Quick YOLO11n with PFDH on aerial_*."""
    return experiment(pfdh(yolo11("n", K)), quick(DATASET))


def yolo11_n_pfdh_literal():
    """Quick YOLO11n with PFDH as the paper shows it on aerial_*."""
    return experiment(pfdh_literal(yolo11("n", K)), quick(DATASET))


def yolo11_n_pfdh_wide():
    """Quick YOLO11n with a wider PFDH, whose levels keep their channels, on aerial_*."""
    return experiment(pfdh(yolo11("n", K), out_channels=None, min_width=32), quick(DATASET))


def yolo11_n_tinytal():
    """Quick YOLO11n with candidates for the tiniest objects on aerial_*."""
    return experiment(tiny_candidates(yolo11("n", K)), quick(DATASET))


def yolov5_s():
    """Quick YOLOv5-s on aerial_*."""
    return experiment(yolov5("s", K), quick(DATASET))


def yolov5_s_sarl_sal():
    """Quick YOLOv5-s with relay and scale-adaptive loss on aerial_*."""
    return experiment(sal(sarl(yolov5("s", K))), quick(DATASET))


def yolox_lite0_s():
    """Quick YOLOX-s neck and head on EfficientNet-Lite0, on aerial_*."""
    return experiment(yolox_lite0(K), pretrained_quick(DATASET))


def yolox_lite0_s_l1():
    """Quick YOLOX-s neck and head on EfficientNet-Lite0, L1 throughout, on aerial_*."""
    return experiment(l1(yolox_lite0(K)), pretrained_quick(DATASET))


def yolox_lite0_s_sal():
    """Quick YOLOX-s neck and head on EfficientNet-Lite0, SAL and L1, on aerial_*."""
    return experiment(sal(yolox_lite0(K)), pretrained_quick(DATASET))


def yolox_lite0_s_sarl():
    """Quick YOLOX-s neck and head on EfficientNet-Lite0, SARL, on aerial_*."""
    return experiment(sarl(yolox_lite0(K)), pretrained_quick(DATASET))


def yolox_lite0_s_sarl_sal():
    """Quick YOLOX-s neck and head on EfficientNet-Lite0, SARL, SAL and L1, on aerial_*."""
    return experiment(sal(sarl(yolox_lite0(K))), pretrained_quick(DATASET))


def yolox_s():
    """Quick YOLOX-s on aerial_*."""
    return experiment(yolox("s", K, max_detections=1500), quick(DATASET))


def yolox_s_l1():
    """Quick YOLOX-s with L1 throughout on aerial_*, as the rows of SAL have it."""
    return experiment(l1(yolox("s", K, max_detections=1500)), quick(DATASET))


def yolox_s_mosaic():
    """Quick YOLOX-s on aerial_* with mosaics of crops instead of crops."""
    config = experiment(yolox("s", K, max_detections=1500), quick(DATASET))
    with_mosaic(
        config["dataloader"],
        size=160,
        close_share=0.9,
        mixup_prob=0.0,
        multi_scale=0,
        saturation=0.3,
        value=0.3,
        hue=5.4,
    )
    return config


def yolox_s_sal():
    """Quick YOLOX-s with the scale-adaptive loss on aerial_*."""
    return experiment(sal(yolox("s", K, max_detections=1500)), quick(DATASET))


def yolox_s_sarl():
    """Quick YOLOX-s with the SARL relay on aerial_*."""
    return experiment(sarl(yolox("s", K, max_detections=1500)), quick(DATASET))


def yolox_s_sarl_sal():
    """Quick YOLOX-s with relay and scale-adaptive loss on aerial_*."""
    return experiment(sal(sarl(yolox("s", K, max_detections=1500))), quick(DATASET))
