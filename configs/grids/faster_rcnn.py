"""Faster R-CNN with RFLA on the benchmarks of the tables of tiny-object papers."""

from ..common.models.rcnn import faster_rcnn_r50
from ..common.parts.rcnn import dcloss, efpnbs, rfla
from ..common.recipes import experiment, rcnn_1x

DATASETS = ("aitod", "aitodv2", "visdrone", "hituav")


def faster_rcnn_r50_efpnbs_rfla_1x(dataset):
    """Faster R-CNN with RFLA and E-FPN-BS."""
    return experiment(efpnbs(rfla(faster_rcnn_r50(dataset.num_classes))), rcnn_1x(dataset))


def faster_rcnn_r50_efpnbs_rfla_dcloss_1x(dataset):
    """Faster R-CNN with RFLA, E-FPN-BS and DCLoss (the "*" rows of arXiv 2506.09897)."""
    return experiment(dcloss(efpnbs(rfla(faster_rcnn_r50(dataset.num_classes)))), rcnn_1x(dataset))


def faster_rcnn_r50_fpn_rfla_1x(dataset):
    """Faster R-CNN with RFLA."""
    return experiment(rfla(faster_rcnn_r50(dataset.num_classes)), rcnn_1x(dataset))
