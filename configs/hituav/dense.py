"""FCOS and RetinaNet on HIT-UAV from ImageNet weights: EfficientNet-Lite0 for processors."""

from ..common.data import hituav
from ..common.models.dense import fcos_lite0, from_p2, retinanet_lite0
from ..common.parts.rcnn import rfla_dense
from ..common.recipes import experiment, whole_images

DATASET = hituav()
K = DATASET.num_classes


def fcos_lite0_p2():
    """FCOS on P2-P6 on HIT-UAV."""
    return experiment(from_p2(fcos_lite0(K)), whole_images(DATASET))


def fcos_lite0_p2_rfla():
    """FCOS on P2-P6 with RFLA on HIT-UAV."""
    return experiment(rfla_dense(from_p2(fcos_lite0(K))), whole_images(DATASET))


def retinanet_lite0_fpn_maxiou():
    """RetinaNet baseline on HIT-UAV: P3-P7, one anchor size of 4 × stride, IoU assignment."""
    return experiment(retinanet_lite0(K), whole_images(DATASET))


def retinanet_lite0_fpn_rfla():
    """RetinaNet with RFLA on HIT-UAV, P3-P7."""
    return experiment(rfla_dense(retinanet_lite0(K)), whole_images(DATASET))
