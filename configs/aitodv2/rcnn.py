"""Faster R-CNN, Cascade R-CNN and DetectoRS on AI-TOD-v2."""

from ..common.data import aitodv2
from ..common.models.rcnn import cascade_rcnn_r50, detectors_r50, faster_rcnn_r50
from ..common.parts.rcnn import dcloss, efpnbs, rfla, rka
from ..common.recipes import experiment, nwd_1x, rcnn_1x

DATASET = aitodv2()
K = DATASET.num_classes


def cascade_rcnn_r50_efpnbs_rfla_1x():
    """Cascade R-CNN with RFLA and E-FPN-BS on AI-TOD-v2."""
    return experiment(efpnbs(rfla(cascade_rcnn_r50(K))), rcnn_1x(DATASET))


def cascade_rcnn_r50_efpnbs_rfla_dcloss_1x():
    """Cascade R-CNN with RFLA, E-FPN-BS and DCLoss on AI-TOD-v2."""
    return experiment(dcloss(efpnbs(rfla(cascade_rcnn_r50(K)))), rcnn_1x(DATASET))


def cascade_rcnn_r50_fpn_maxiou_1x():
    """Cascade R-CNN baseline on AI-TOD-v2."""
    return experiment(cascade_rcnn_r50(K), rcnn_1x(DATASET))


def cascade_rcnn_r50_fpn_rfla_1x():
    """Cascade R-CNN with RFLA on AI-TOD-v2."""
    return experiment(rfla(cascade_rcnn_r50(K)), rcnn_1x(DATASET))


def detectors_r50_efpnbs_rfla_1x():
    """DetectoRS with RFLA and E-FPN-BS on AI-TOD-v2."""
    return experiment(efpnbs(rfla(detectors_r50(K))), rcnn_1x(DATASET))


def detectors_r50_efpnbs_rfla_dcloss_1x():
    """DetectoRS with RFLA, E-FPN-BS and DCLoss on AI-TOD-v2."""
    return experiment(dcloss(efpnbs(rfla(detectors_r50(K)))), rcnn_1x(DATASET))


def detectors_r50_rfp_maxiou_1x():
    """DetectoRS baseline on AI-TOD-v2."""
    return experiment(detectors_r50(K), rcnn_1x(DATASET))


def detectors_r50_rfp_rfla_1x():
    """DetectoRS with RFLA on AI-TOD-v2."""
    return experiment(rfla(detectors_r50(K)), rcnn_1x(DATASET))


def detectors_r50_rfp_rka_1x():
    """DetectoRS with NWD-RKA on AI-TOD-v2."""
    return experiment(rka(detectors_r50(K), topk=3), nwd_1x(DATASET))


def faster_rcnn_r50_efpnbs_rfla_1x():
    """Faster R-CNN with RFLA and E-FPN-BS on AI-TOD-v2."""
    return experiment(efpnbs(rfla(faster_rcnn_r50(K))), rcnn_1x(DATASET))


def faster_rcnn_r50_efpnbs_rfla_dcloss_1x():
    """Faster R-CNN with RFLA, E-FPN-BS and DCLoss on AI-TOD-v2."""
    return experiment(dcloss(efpnbs(rfla(faster_rcnn_r50(K)))), rcnn_1x(DATASET))


def faster_rcnn_r50_fpn_maxiou_1x():
    """Faster R-CNN baseline on AI-TOD-v2."""
    return experiment(faster_rcnn_r50(K), rcnn_1x(DATASET))


def faster_rcnn_r50_fpn_rfla_1x():
    """Faster R-CNN with RFLA on AI-TOD-v2."""
    return experiment(rfla(faster_rcnn_r50(K)), rcnn_1x(DATASET))
