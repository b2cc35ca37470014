"""FCOS and RetinaNet on AI-TOD."""

from ..common.data import aitod
from ..common.models.dense import fcos_r50, from_p2, retinanet_r50
from ..common.parts.rcnn import rfla_dense
from ..common.recipes import experiment, rcnn_1x

DATASET = aitod()
K = DATASET.num_classes


def fcos_r50_p2_rfla_1x():
    """FCOS on P2-P6 with RFLA on AI-TOD."""
    return experiment(rfla_dense(from_p2(fcos_r50(K))), rcnn_1x(DATASET))


def fcos_r50_p3_1x():
    """FCOS baseline on AI-TOD."""
    return experiment(fcos_r50(K), rcnn_1x(DATASET))


def fcos_r50_p3_rfla_1x():
    """FCOS with RFLA on AI-TOD."""
    return experiment(rfla_dense(fcos_r50(K)), rcnn_1x(DATASET))


def retinanet_r50_fpn_maxiou_1x():
    """RetinaNet baseline on AI-TOD."""
    return experiment(retinanet_r50(K), rcnn_1x(DATASET))


def retinanet_r50_fpn_rfla_1x():
    """RetinaNet with RFLA on AI-TOD."""
    return experiment(rfla_dense(retinanet_r50(K)), rcnn_1x(DATASET))
