"""Faster R-CNN, Cascade R-CNN and DetectoRS on small aerial tiles: quick trainings on a processor."""

from ..common.data import aerial
from ..common.models.rcnn import (
    cascade_rcnn_lite0,
    cascade_rcnn_r18,
    detectors_r18,
    faster_rcnn_lite0,
    faster_rcnn_r18,
)
from ..common.parts.rcnn import (
    anchors_8_to_128,
    dcloss,
    efpnbs,
    efpnbs_taught,
    l1,
    narrow_box_heads,
    nwd,
    rfla,
    rka,
    sarl,
)
from ..common.recipes import enlarged, experiment, pretrained_quick, quick

DATASET = aerial()
K = DATASET.num_classes
# DetectoRS reads up to 9 cells of stride 32 around each cell and averages whole maps. From crops of 160 px it learns
# that there is nothing around, and whole images drive its features to several times their size.
LARGE_CROPS = aerial(crop=320)


def cascade_rcnn_lite0_efpnbs_taught_rfla_x2():
    """Cascade R-CNN with RFLA and E-FPN-BS with taught masks (ours) on aerial_*, images at twice their sides."""
    return experiment(efpnbs_taught(rfla(cascade_rcnn_lite0(K))), enlarged(pretrained_quick(DATASET), 2.0))


def cascade_rcnn_lite0_efpnbs_rfla_dcloss():
    """Quick Cascade R-CNN with RFLA, E-FPN-BS and DCLoss on aerial_*, from ImageNet weights."""
    return experiment(dcloss(efpnbs(rfla(cascade_rcnn_lite0(K)))), pretrained_quick(DATASET))


def cascade_rcnn_lite0_fpn_rfla_l1():
    """Quick Cascade R-CNN with RFLA and L1 instead of its smooth L1 on aerial_*: what DCLoss is to be compared with."""
    return experiment(l1(rfla(cascade_rcnn_lite0(K))), pretrained_quick(DATASET))


def cascade_rcnn_lite0_fpn_rfla_x2():
    """Cascade R-CNN with RFLA on aerial_*, images at twice their sides."""
    return experiment(rfla(cascade_rcnn_lite0(K)), enlarged(pretrained_quick(DATASET), 2.0))


def cascade_rcnn_lite0_sarl_rfla_x2():
    """Cascade R-CNN with RFLA and the SARL relay on aerial_*, images at twice their sides."""
    return experiment(sarl(rfla(cascade_rcnn_lite0(K))), enlarged(pretrained_quick(DATASET), 2.0))


def cascade_rcnn_lite0_fpn_rfla_narrow():
    """Quick Cascade R-CNN with RFLA on aerial_*, box heads of 128 channels: can start from the published `thermal`."""
    return experiment(rfla(narrow_box_heads(cascade_rcnn_lite0(K), 128)), pretrained_quick(DATASET))


def cascade_rcnn_lite0_fpn_rfla():
    """Quick Cascade R-CNN with RFLA on aerial_*, from ImageNet weights."""
    return experiment(rfla(cascade_rcnn_lite0(K)), pretrained_quick(DATASET))


def cascade_rcnn_r18_efpnbs_rfla():
    """Quick Cascade R-CNN with RFLA and E-FPN-BS on aerial_*."""
    return experiment(efpnbs(rfla(cascade_rcnn_r18(K))), quick(DATASET))


def cascade_rcnn_r18_efpnbs_rfla_dcloss():
    """Quick Cascade R-CNN with RFLA, E-FPN-BS and DCLoss on aerial_*."""
    return experiment(dcloss(efpnbs(rfla(cascade_rcnn_r18(K)))), quick(DATASET))


def cascade_rcnn_r18_fpn_maxiou():
    """Quick Cascade R-CNN baseline on aerial_*: anchors of 8 × stride, IoU assignment."""
    return experiment(cascade_rcnn_r18(K), quick(DATASET))


def cascade_rcnn_r18_fpn_rfla():
    """Quick Cascade R-CNN with RFLA on aerial_*."""
    return experiment(rfla(cascade_rcnn_r18(K)), quick(DATASET))


def detectors_r18_efpnbs_rfla():
    """Quick DetectoRS with RFLA and E-FPN-BS on aerial_*."""
    return experiment(efpnbs(rfla(detectors_r18(K))), quick(LARGE_CROPS, batch_size=2))


def detectors_r18_efpnbs_rfla_dcloss():
    """Quick DetectoRS with RFLA, E-FPN-BS and DCLoss on aerial_*."""
    return experiment(dcloss(efpnbs(rfla(detectors_r18(K)))), quick(LARGE_CROPS, batch_size=2))


def detectors_r18_rfp_maxiou():
    """Quick DetectoRS baseline on aerial_*: anchors of 8 × stride, IoU assignment."""
    return experiment(detectors_r18(K), quick(LARGE_CROPS, batch_size=2))


def detectors_r18_rfp_rfla():
    """Quick DetectoRS with RFLA on aerial_*."""
    return experiment(rfla(detectors_r18(K)), quick(LARGE_CROPS, batch_size=2))


def faster_rcnn_lite0_efpnbs_rfla():
    """Quick Faster R-CNN with RFLA and E-FPN-BS on aerial_*, from ImageNet weights."""
    return experiment(efpnbs(rfla(faster_rcnn_lite0(K))), pretrained_quick(DATASET))


def faster_rcnn_lite0_efpnbs_taught_rfla():
    """Quick Faster R-CNN with RFLA and E-FPN-BS with a residual and taught masks (ours) on aerial_*."""
    return experiment(efpnbs_taught(rfla(faster_rcnn_lite0(K))), pretrained_quick(DATASET))


def faster_rcnn_lite0_efpnbs_rfla_dcloss():
    """Quick Faster R-CNN with RFLA, E-FPN-BS and DCLoss on aerial_*, from ImageNet weights."""
    return experiment(dcloss(efpnbs(rfla(faster_rcnn_lite0(K)))), pretrained_quick(DATASET))


def faster_rcnn_lite0_fpn_maxiou():
    """Quick Faster R-CNN baseline on aerial_*: anchors of 8 × stride, IoU assignment, from ImageNet weights."""
    return experiment(faster_rcnn_lite0(K), pretrained_quick(DATASET))


def faster_rcnn_lite0_fpn_maxiou_a8():
    """Quick baseline with anchors of 8-128 px, from ImageNet weights."""
    return experiment(anchors_8_to_128(faster_rcnn_lite0(K)), pretrained_quick(DATASET))


def faster_rcnn_lite0_fpn_rfla():
    """Quick Faster R-CNN with RFLA on aerial_*, from ImageNet weights."""
    return experiment(rfla(faster_rcnn_lite0(K)), pretrained_quick(DATASET))


def faster_rcnn_lite0_sarl_rfla():
    """Quick Faster R-CNN with RFLA and the SARL relay on aerial_*, from ImageNet weights."""
    return experiment(sarl(rfla(faster_rcnn_lite0(K))), pretrained_quick(DATASET))


def faster_rcnn_lite0_sarl_nomax_rfla():
    """Quick Faster R-CNN with RFLA and the SARL relay without the maximum over the image on aerial_*: a control."""
    return experiment(sarl(rfla(faster_rcnn_lite0(K)), channel_max=False), pretrained_quick(DATASET))


def faster_rcnn_r18_cem_rfla():
    """Quick Faster R-CNN with RFLA and CEM alone on aerial_*."""
    return experiment(efpnbs(rfla(faster_rcnn_r18(K)), fbsm=False), quick(DATASET))


def faster_rcnn_r18_efpnbs_rfla():
    """Quick Faster R-CNN with RFLA and E-FPN-BS on aerial_*."""
    return experiment(efpnbs(rfla(faster_rcnn_r18(K))), quick(DATASET))


def faster_rcnn_r18_efpnbs_rfla_dcloss():
    """Quick Faster R-CNN with RFLA, E-FPN-BS and DCLoss on aerial_*."""
    return experiment(dcloss(efpnbs(rfla(faster_rcnn_r18(K)))), quick(DATASET))


def faster_rcnn_r18_efpnbslight_rfla():
    """Quick Faster R-CNN with RFLA and the light variant of E-FPN-BS (ours) on aerial_*."""
    return experiment(efpnbs(rfla(faster_rcnn_r18(K)), light=True), quick(DATASET))


def faster_rcnn_r18_fbsm_rfla():
    """Quick Faster R-CNN with RFLA and FBSM alone on aerial_*."""
    return experiment(efpnbs(rfla(faster_rcnn_r18(K)), cem=False), quick(DATASET))


def faster_rcnn_r18_fpn_maxiou():
    """Quick baseline on aerial_*: the papers' anchors (8 × stride), IoU assignment."""
    return experiment(faster_rcnn_r18(K), quick(DATASET))


def faster_rcnn_r18_fpn_maxiou_a8():
    """Quick baseline with anchors of 8-128 px: the honest opponent of methods for tiny objects."""
    return experiment(anchors_8_to_128(faster_rcnn_r18(K)), quick(DATASET))


def faster_rcnn_r18_fpn_nwd():
    """Quick Faster R-CNN with NWD in assigner, loss and NMS on aerial_*; anchors of 8-128 px."""
    return experiment(nwd(anchors_8_to_128(faster_rcnn_r18(K))), quick(DATASET))


def faster_rcnn_r18_fpn_rfla():
    """Quick Faster R-CNN with RFLA on aerial_*."""
    return experiment(rfla(faster_rcnn_r18(K)), quick(DATASET))


def faster_rcnn_r18_fpn_rfla_dcloss():
    """Quick Faster R-CNN with RFLA and DCLoss on aerial_*."""
    return experiment(dcloss(rfla(faster_rcnn_r18(K))), quick(DATASET))


def faster_rcnn_r18_fpn_rka():
    """Quick Faster R-CNN with NWD-RKA on aerial_*; anchors of 8-128 px."""
    return experiment(rka(anchors_8_to_128(faster_rcnn_r18(K))), quick(DATASET))


def faster_rcnn_r18_sarl_rfla():
    """Quick Faster R-CNN with RFLA and the SARL relay on aerial_*."""
    return experiment(sarl(rfla(faster_rcnn_r18(K))), quick(DATASET))
