"""Faster R-CNN, Cascade R-CNN and DetectoRS on tiles of DOTA-v2.0."""

from ..common.data import dotav2
from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import dcloss, efpnbs, rfla
from ..common.recipes import experiment, rcnn_1x

DATASET = dotav2()
K = DATASET.num_classes
TOPK = (2, 1)  # as RFLA has it for DOTA-v2


def faster_rcnn_r50_efpnbs_rfla_1x():
    """Faster R-CNN with RFLA and E-FPN-BS on DOTA-v2.0 tiles."""
    return experiment(efpnbs(rfla(faster_rcnn_r50(K), topk=TOPK)), rcnn_1x(DATASET))


def faster_rcnn_r50_efpnbs_rfla_dcloss_1x():
    """Faster R-CNN with RFLA, E-FPN-BS and DCLoss on DOTA-v2.0 tiles."""
    return experiment(dcloss(efpnbs(rfla(faster_rcnn_r50(K), topk=TOPK))), rcnn_1x(DATASET))


def faster_rcnn_r50_fpn_rfla_1x():
    """Faster R-CNN with RFLA on DOTA-v2.0 tiles."""
    return experiment(rfla(faster_rcnn_r50(K), topk=TOPK), rcnn_1x(DATASET))
