"""Faster R-CNN, Cascade R-CNN and DetectoRS on tiles of DOTA-v2.0."""

from ..common.data import dotav2
from ..common.models.rcnn import cascade_rcnn_r50, detectors_r50, faster_rcnn_r50
from ..common.parts.rcnn import dcloss, efpnbs, rfla
from ..common.recipes import experiment, rcnn_1x

DATASET = dotav2()
K = DATASET.num_classes
TOPK = (2, 1)  # as RFLA has it for DOTA-v2


def cascade_rcnn_r50_efpnbs_rfla_1x():
    """Cascade R-CNN with RFLA and E-FPN-BS on DOTA-v2.0 tiles."""
    return experiment(efpnbs(rfla(cascade_rcnn_r50(K))), rcnn_1x(DATASET))


def cascade_rcnn_r50_efpnbs_rfla_dcloss_1x():
    """Cascade R-CNN with RFLA, E-FPN-BS and DCLoss on DOTA-v2.0 tiles."""
    return experiment(dcloss(efpnbs(rfla(cascade_rcnn_r50(K)))), rcnn_1x(DATASET))


def cascade_rcnn_r50_fpn_maxiou_1x():
    """Cascade R-CNN baseline on DOTA-v2.0 tiles."""
    return experiment(cascade_rcnn_r50(K), rcnn_1x(DATASET))


def cascade_rcnn_r50_fpn_rfla_1x():
    """Cascade R-CNN with RFLA on DOTA-v2.0 tiles."""
    return experiment(rfla(cascade_rcnn_r50(K)), rcnn_1x(DATASET))


def detectors_r50_efpnbs_rfla_1x():
    """DetectoRS with RFLA and E-FPN-BS on DOTA-v2.0 tiles."""
    return experiment(efpnbs(rfla(detectors_r50(K))), rcnn_1x(DATASET))


def detectors_r50_efpnbs_rfla_dcloss_1x():
    """DetectoRS with RFLA, E-FPN-BS and DCLoss on DOTA-v2.0 tiles."""
    return experiment(dcloss(efpnbs(rfla(detectors_r50(K)))), rcnn_1x(DATASET))


def detectors_r50_rfp_maxiou_1x():
    """DetectoRS baseline on DOTA-v2.0 tiles."""
    return experiment(detectors_r50(K), rcnn_1x(DATASET))


def detectors_r50_rfp_rfla_1x():
    """DetectoRS with RFLA on DOTA-v2.0 tiles."""
    return experiment(rfla(detectors_r50(K)), rcnn_1x(DATASET))


def faster_rcnn_r50_efpnbs_rfla_1x():
    """Faster R-CNN with RFLA and E-FPN-BS on DOTA-v2.0 tiles."""
    return experiment(efpnbs(rfla(faster_rcnn_r50(K), topk=TOPK)), rcnn_1x(DATASET))


def faster_rcnn_r50_efpnbs_rfla_dcloss_1x():
    """Faster R-CNN with RFLA, E-FPN-BS and DCLoss on DOTA-v2.0 tiles."""
    return experiment(dcloss(efpnbs(rfla(faster_rcnn_r50(K), topk=TOPK))), rcnn_1x(DATASET))


def faster_rcnn_r50_fpn_maxiou_1x():
    """Faster R-CNN baseline on DOTA-v2.0 tiles."""
    return experiment(faster_rcnn_r50(K), rcnn_1x(DATASET))


def faster_rcnn_r50_fpn_rfla_1x():
    """Faster R-CNN with RFLA on DOTA-v2.0 tiles."""
    return experiment(rfla(faster_rcnn_r50(K), topk=TOPK), rcnn_1x(DATASET))
