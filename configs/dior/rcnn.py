"""Faster R-CNN, Cascade R-CNN and DetectoRS on DIOR."""

from ..common.data import dior
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import rfla
from ..common.recipes import experiment, rcnn_1x

DATASET = dior()
K = DATASET.num_classes


def faster_rcnn_r50_fpn_rfla_1x():
    """Faster R-CNN with RFLA on DIOR."""
    return experiment(rfla(faster_rcnn_r50(K)), rcnn_1x(DATASET))
