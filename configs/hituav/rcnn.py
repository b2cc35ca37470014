"""R-CNNs on HIT-UAV from ImageNet weights: EfficientNet-Lite0 for processors; see grids/ for ResNet-50."""

from ..common.data import hituav
from ..common.models.rcnn import cascade_rcnn_lite0, detectors_lite0, faster_rcnn_lite0, faster_rcnn_r50
from ..common.parts.rcnn import (
    anchors_8_to_128,
    dcloss,
    efpnbs,
    efpnbs_taught,
    l1,
    narrow_box_heads,
    nwd_loss,
    rfla,
    rka,
    sal,
    sarl,
)
from ..common.recipes import enlarged, experiment, rcnn_1x, whole_images

DATASET = hituav()
K = DATASET.num_classes


def faster_rcnn_lite0_fpn_maxiou():
    """Faster R-CNN baseline on HIT-UAV: the papers' anchors (8 × stride), IoU assignment."""
    return experiment(faster_rcnn_lite0(K), whole_images(DATASET))


def faster_rcnn_lite0_fpn_maxiou_a8():
    """Faster R-CNN baseline on HIT-UAV with anchors of 8-128 px."""
    return experiment(anchors_8_to_128(faster_rcnn_lite0(K)), whole_images(DATASET))


def faster_rcnn_lite0_fpn_rka():
    """Faster R-CNN with NWD-RKA on HIT-UAV; anchors of 8-128 px."""
    return experiment(rka(anchors_8_to_128(faster_rcnn_lite0(K))), whole_images(DATASET))


def faster_rcnn_lite0_fpn_rfla():
    """Faster R-CNN with RFLA on HIT-UAV."""
    return experiment(rfla(faster_rcnn_lite0(K)), whole_images(DATASET))


def faster_rcnn_lite0_fpn_rfla_dcloss():
    """Faster R-CNN with RFLA and DCLoss (as its prose describes it) on HIT-UAV."""
    return experiment(dcloss(rfla(faster_rcnn_lite0(K))), whole_images(DATASET))


def faster_rcnn_lite0_fpn_rfla_dcloss_formula():
    """Faster R-CNN with RFLA and DCLoss (as its formula is printed) on HIT-UAV."""
    return experiment(dcloss(rfla(faster_rcnn_lite0(K)), mode="formula"), whole_images(DATASET))


def faster_rcnn_lite0_fpn_rfla_dcloss_roi():
    """Faster R-CNN with RFLA and DCLoss in the box head only, with δ in shares of a proposal, on HIT-UAV."""
    return experiment(dcloss(rfla(faster_rcnn_lite0(K)), rpn=False, roi_unit=10.0), whole_images(DATASET))


def faster_rcnn_lite0_fpn_rfla_sal():
    """Faster R-CNN with RFLA and the scale-adaptive loss on HIT-UAV."""
    return experiment(sal(rfla(faster_rcnn_lite0(K))), whole_images(DATASET))


def faster_rcnn_lite0_fpn_rfla_nwdloss():
    """Faster R-CNN with RFLA and the NWD loss on HIT-UAV."""
    return experiment(nwd_loss(rfla(faster_rcnn_lite0(K))), whole_images(DATASET))


def faster_rcnn_lite0_cem_rfla():
    """Faster R-CNN with RFLA and CEM alone on HIT-UAV."""
    return experiment(efpnbs(rfla(faster_rcnn_lite0(K)), fbsm=False), whole_images(DATASET))


def faster_rcnn_lite0_fbsm_rfla():
    """Faster R-CNN with RFLA and FBSM alone on HIT-UAV."""
    return experiment(efpnbs(rfla(faster_rcnn_lite0(K)), cem=False), whole_images(DATASET))


def faster_rcnn_lite0_efpnbs_rfla():
    """Faster R-CNN with RFLA and E-FPN-BS on HIT-UAV."""
    return experiment(efpnbs(rfla(faster_rcnn_lite0(K))), whole_images(DATASET))


def faster_rcnn_lite0_efpnbs_taught_rfla():
    """Faster R-CNN with RFLA and E-FPN-BS with a residual and masks that the boxes teach (ours) on HIT-UAV."""
    return experiment(efpnbs_taught(rfla(faster_rcnn_lite0(K))), whole_images(DATASET))


def faster_rcnn_lite0_efpnbslight_rfla():
    """Faster R-CNN with RFLA and the light variant of E-FPN-BS (ours) on HIT-UAV."""
    return experiment(efpnbs(rfla(faster_rcnn_lite0(K)), light=True), whole_images(DATASET))


def faster_rcnn_lite0_efpnbs_rfla_dcloss():
    """Faster R-CNN with RFLA, E-FPN-BS and DCLoss on HIT-UAV."""
    return experiment(dcloss(efpnbs(rfla(faster_rcnn_lite0(K)))), whole_images(DATASET))


def faster_rcnn_lite0_sarl_rfla():
    """Faster R-CNN with RFLA and the SARL relay on HIT-UAV."""
    return experiment(sarl(rfla(faster_rcnn_lite0(K))), whole_images(DATASET))


def faster_rcnn_lite0_sarl_nomax_rfla():
    """Faster R-CNN with RFLA and the SARL relay without the maximum over the image on HIT-UAV: a control (ours)."""
    return experiment(sarl(rfla(faster_rcnn_lite0(K)), channel_max=False), whole_images(DATASET))


def faster_rcnn_r50_efpnbs_taught_rfla_1x():
    """Faster R-CNN with RFLA and E-FPN-BS with a residual and masks that the boxes teach (ours) on HIT-UAV."""
    # the papers' 5,000 iterations of warm-up are less than an epoch of AI-TOD, and five of HIT-UAV
    return experiment(efpnbs_taught(rfla(faster_rcnn_r50(K))), rcnn_1x(DATASET, warmup_iters=DATASET.iterations(2)))


def cascade_rcnn_lite0_fpn_rfla_l1():
    """Cascade R-CNN with RFLA and L1 instead of its smooth L1, on HIT-UAV: what DCLoss is to be compared with."""
    return experiment(l1(rfla(cascade_rcnn_lite0(K))), whole_images(DATASET))


def cascade_rcnn_lite0_fpn_rfla():
    """Cascade R-CNN with RFLA on HIT-UAV."""
    return experiment(rfla(cascade_rcnn_lite0(K)), whole_images(DATASET))


def cascade_rcnn_lite0_fpn_rfla_narrow():
    """Cascade R-CNN with RFLA on HIT-UAV, box heads of 128 channels, which in float16 fit a file of 10 MB."""
    return experiment(rfla(narrow_box_heads(cascade_rcnn_lite0(K), 128)), whole_images(DATASET))


def cascade_rcnn_lite0_efpnbs_rfla_dcloss():
    """Cascade R-CNN with RFLA, E-FPN-BS and DCLoss on HIT-UAV."""
    return experiment(dcloss(efpnbs(rfla(cascade_rcnn_lite0(K)))), whole_images(DATASET))


def detectors_lite0_rfp_rfla():
    """Cascade R-CNN with RFLA on a recursive pyramid (DetectoRS without switchable convolutions) on HIT-UAV."""
    return experiment(rfla(detectors_lite0(K)), whole_images(DATASET))


def detectors_lite0_efpnbs_rfla_dcloss():
    """The same with E-FPN-BS and DCLoss on HIT-UAV."""
    return experiment(dcloss(efpnbs(rfla(detectors_lite0(K)))), whole_images(DATASET))


def cascade_rcnn_lite0_efpnbs_taught_rfla():
    """Cascade R-CNN with RFLA and E-FPN-BS with a residual and taught masks (ours) on HIT-UAV."""
    return experiment(efpnbs_taught(rfla(cascade_rcnn_lite0(K))), whole_images(DATASET))


def faster_rcnn_lite0_efpnbs_taught_rfla_x2():
    """Faster R-CNN with RFLA and E-FPN-BS with taught masks (ours) on HIT-UAV, images enlarged to twice their sides."""
    return experiment(efpnbs_taught(rfla(faster_rcnn_lite0(K))), enlarged(whole_images(DATASET), 2.0))


def cascade_rcnn_lite0_efpnbs_taught_rfla_x2():
    """Cascade R-CNN with RFLA and E-FPN-BS with taught masks (ours) on HIT-UAV, images at twice their sides."""
    return experiment(efpnbs_taught(rfla(cascade_rcnn_lite0(K))), enlarged(whole_images(DATASET), 2.0))


def cascade_rcnn_lite0_fpn_rfla_x2():
    """Cascade R-CNN with RFLA on HIT-UAV, images at twice their sides."""
    return experiment(rfla(cascade_rcnn_lite0(K)), enlarged(whole_images(DATASET), 2.0))


def cascade_rcnn_lite0_sarl_rfla_x2():
    """Cascade R-CNN with RFLA and the SARL relay on HIT-UAV, images at twice their sides."""
    return experiment(sarl(rfla(cascade_rcnn_lite0(K))), enlarged(whole_images(DATASET), 2.0))
