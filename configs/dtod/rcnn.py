"""Faster R-CNN, Cascade R-CNN and DetectoRS on DTOD."""

from ..common.data import dtod
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import rfla
from ..common.recipes import experiment, rcnn_1x

# Set num_classes and num_images to those of your json; the check before a training counts the classes.
DATASET = dtod()
K = DATASET.num_classes


def faster_rcnn_r50_fpn_rfla_1x():
    """Faster R-CNN with RFLA on DTOD."""
    return experiment(rfla(faster_rcnn_r50(K)), rcnn_1x(DATASET))
