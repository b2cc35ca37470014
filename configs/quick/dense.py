"""FCOS and RetinaNet on small aerial tiles: quick trainings on a processor."""

from ..common.data import aerial
from ..common.models.dense import fcos_lite0, fcos_r18, from_p2, retinanet_lite0, retinanet_r18
from ..common.parts.rcnn import rfla_dense
from ..common.recipes import experiment, pretrained_quick, quick

DATASET = aerial()
K = DATASET.num_classes


def fcos_lite0_p2():
    """Quick FCOS on P2-P6 on aerial_*, from ImageNet weights."""
    return experiment(from_p2(fcos_lite0(K)), pretrained_quick(DATASET))


def fcos_lite0_p2_rfla():
    """Quick FCOS on P2-P6 with RFLA on aerial_*, from ImageNet weights."""
    return experiment(rfla_dense(from_p2(fcos_lite0(K))), pretrained_quick(DATASET))


def fcos_r18_p2_rfla():
    """Quick FCOS on P2-P6 with RFLA on aerial_*."""
    return experiment(rfla_dense(from_p2(fcos_r18(K))), quick(DATASET))


def fcos_r18_p3_rfla():
    """Quick FCOS on P3-P7 with RFLA on aerial_*."""
    return experiment(rfla_dense(fcos_r18(K)), quick(DATASET))


def retinanet_lite0_fpn_maxiou():
    """Quick RetinaNet baseline on aerial_*: P3-P7, one anchor size of 4 × stride, from ImageNet weights."""
    return experiment(retinanet_lite0(K), pretrained_quick(DATASET))


def retinanet_lite0_fpn_rfla():
    """Quick RetinaNet with RFLA on P3-P7 on aerial_*, from ImageNet weights."""
    return experiment(rfla_dense(retinanet_lite0(K)), pretrained_quick(DATASET))


def retinanet_r18_fpn_rfla():
    """Quick RetinaNet with RFLA on aerial_*."""
    return experiment(rfla_dense(retinanet_r18(K)), quick(DATASET))
