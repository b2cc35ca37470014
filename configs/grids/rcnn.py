"""Detectors of the R-CNN family on the benchmarks of the tables of tiny-object papers."""

from ..common.models.rcnn import cascade_rcnn_r50, detectors_r50, faster_rcnn_r50
from ..common.parts.rcnn import dcloss, efpnbs, rfla
from ..common.recipes import experiment, rcnn_1x

DATASETS = ("aitod", "aitodv2", "visdrone", "dotav2", "hituav")


def cascade_rcnn_r50_efpnbs_rfla_1x(dataset):
    """Cascade R-CNN with RFLA and E-FPN-BS."""
    return experiment(efpnbs(rfla(cascade_rcnn_r50(dataset.num_classes))), rcnn_1x(dataset))


def cascade_rcnn_r50_efpnbs_rfla_dcloss_1x(dataset):
    """Cascade R-CNN with RFLA, E-FPN-BS and DCLoss (the "*" rows of arXiv 2506.09897)."""
    return experiment(dcloss(efpnbs(rfla(cascade_rcnn_r50(dataset.num_classes)))), rcnn_1x(dataset))


def cascade_rcnn_r50_fpn_maxiou_1x(dataset):
    """Cascade R-CNN baseline."""
    return experiment(cascade_rcnn_r50(dataset.num_classes), rcnn_1x(dataset))


def cascade_rcnn_r50_fpn_rfla_1x(dataset):
    """Cascade R-CNN with RFLA."""
    return experiment(rfla(cascade_rcnn_r50(dataset.num_classes)), rcnn_1x(dataset))


def detectors_r50_efpnbs_rfla_1x(dataset):
    """DetectoRS with RFLA and E-FPN-BS."""
    return experiment(efpnbs(rfla(detectors_r50(dataset.num_classes))), rcnn_1x(dataset))


def detectors_r50_efpnbs_rfla_dcloss_1x(dataset):
    """DetectoRS with RFLA, E-FPN-BS and DCLoss (the "*" rows of arXiv 2506.09897)."""
    return experiment(dcloss(efpnbs(rfla(detectors_r50(dataset.num_classes)))), rcnn_1x(dataset))


def detectors_r50_rfp_maxiou_1x(dataset):
    """DetectoRS baseline."""
    return experiment(detectors_r50(dataset.num_classes), rcnn_1x(dataset))


def detectors_r50_rfp_rfla_1x(dataset):
    """DetectoRS with RFLA."""
    return experiment(rfla(detectors_r50(dataset.num_classes)), rcnn_1x(dataset))


def faster_rcnn_r50_fpn_maxiou_1x(dataset):
    """Faster R-CNN baseline: anchors of 8 × stride, IoU assignment, 12 epochs of batch 2."""
    return experiment(faster_rcnn_r50(dataset.num_classes), rcnn_1x(dataset))
