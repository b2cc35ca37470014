"""Faster R-CNN, Cascade R-CNN and DetectoRS on VisDrone-DET."""

from ..common.data import visdrone
from ..common.models.rcnn import cascade_rcnn_r50, detectors_r50, faster_rcnn_r50
from ..common.parts.rcnn import dcloss, efpnbs, rfla
from ..common.recipes import experiment, rcnn_1x

DATASET = visdrone()
K = DATASET.num_classes


def cascade_rcnn_r50_efpnbs_rfla_1x():
    """Cascade R-CNN with RFLA and E-FPN-BS on VisDrone-DET."""
    return experiment(efpnbs(rfla(cascade_rcnn_r50(K))), rcnn_1x(DATASET))


def cascade_rcnn_r50_efpnbs_rfla_dcloss_1x():
    """Cascade R-CNN with RFLA, E-FPN-BS and DCLoss on VisDrone-DET."""
    return experiment(dcloss(efpnbs(rfla(cascade_rcnn_r50(K)))), rcnn_1x(DATASET))


def cascade_rcnn_r50_fpn_maxiou_1x():
    """Cascade R-CNN baseline on VisDrone-DET."""
    return experiment(cascade_rcnn_r50(K), rcnn_1x(DATASET))


def cascade_rcnn_r50_fpn_rfla_1x():
    """Cascade R-CNN with RFLA on VisDrone-DET."""
    return experiment(rfla(cascade_rcnn_r50(K)), rcnn_1x(DATASET))


def detectors_r50_efpnbs_rfla_1x():
    """DetectoRS with RFLA and E-FPN-BS on VisDrone-DET."""
    return experiment(efpnbs(rfla(detectors_r50(K))), rcnn_1x(DATASET))


def detectors_r50_efpnbs_rfla_dcloss_1x():
    """DetectoRS with RFLA, E-FPN-BS and DCLoss on VisDrone-DET."""
    return experiment(dcloss(efpnbs(rfla(detectors_r50(K)))), rcnn_1x(DATASET))


def detectors_r50_rfp_maxiou_1x():
    """DetectoRS baseline on VisDrone-DET."""
    return experiment(detectors_r50(K), rcnn_1x(DATASET))


def detectors_r50_rfp_rfla_1x():
    """DetectoRS with RFLA on VisDrone-DET."""
    return experiment(rfla(detectors_r50(K)), rcnn_1x(DATASET))


def faster_rcnn_r50_efpnbs_rfla_1x():
    """Faster R-CNN with RFLA and E-FPN-BS on VisDrone-DET."""
    return experiment(efpnbs(rfla(faster_rcnn_r50(K))), rcnn_1x(DATASET))


def faster_rcnn_r50_efpnbs_rfla_dcloss_1x():
    """Faster R-CNN with RFLA, E-FPN-BS and DCLoss on VisDrone-DET."""
    return experiment(dcloss(efpnbs(rfla(faster_rcnn_r50(K)))), rcnn_1x(DATASET))


def faster_rcnn_r50_fpn_maxiou_1x():
    """Faster R-CNN baseline on VisDrone-DET."""
    return experiment(faster_rcnn_r50(K), rcnn_1x(DATASET))


def faster_rcnn_r50_fpn_rfla_1x():
    """Faster R-CNN with RFLA on VisDrone-DET."""
    return experiment(rfla(faster_rcnn_r50(K)), rcnn_1x(DATASET))
