"""Faster R-CNN, Cascade R-CNN and DetectoRS on AI-TOD."""

from ..common.data import aitod
from ..common.models.rcnn import (
    CONVNEXT_T,
    R50_RSB,
    SWIN_T,
    cascade_rcnn_r50,
    detectors_r50,
    faster_rcnn_lite0,
    faster_rcnn_r50,
    for_weights_of,
    timm_backbone,
)
from ..common.parts.rcnn import anchors_8_to_128, dcloss, efpnbs, nwd, rfla, rka, sarl
from ..common.recipes import adamw_1x, convnext_factors, experiment, nwd_1x, rcnn_1x, whole_images

DATASET = aitod()
K = DATASET.num_classes


def cascade_rcnn_r50_fpn_nwd_1x():
    """Cascade R-CNN with NWD: assigner, loss and NMS on AI-TOD."""
    return experiment(nwd(cascade_rcnn_r50(K), loss_weight=10.0), nwd_1x(DATASET))


def cascade_rcnn_r50_fpn_rka_1x():
    """Cascade R-CNN with NWD-RKA on AI-TOD."""
    return experiment(rka(cascade_rcnn_r50(K), topk=3), nwd_1x(DATASET))


def detectors_r50_rfp_nwd_1x():
    """DetectoRS with NWD: assigner, loss and NMS on AI-TOD."""
    return experiment(nwd(detectors_r50(K), loss_weight=5.0), nwd_1x(DATASET))


def faster_rcnn_convnext_t_fpn_rfla_1x():
    """Faster R-CNN with RFLA on AI-TOD with a ConvNeXt-T; drop path 0.2 (0.4 for the 36 epochs of its paper)."""
    backbone = timm_backbone(CONVNEXT_T, drop_path_rate=0.2, out_norm=True)
    recipe = adamw_1x(DATASET, f"timm://{CONVNEXT_T}", lr_factors=convnext_factors())
    return experiment(rfla(for_weights_of(backbone, faster_rcnn_r50(K))), recipe)


def faster_rcnn_lite0_fpn_rfla_12e():
    """Small Faster R-CNN with RFLA on AI-TOD with an EfficientNet-Lite0, 12 epochs."""
    return experiment(rfla(faster_rcnn_lite0(K)), whole_images(DATASET))


def faster_rcnn_r50_cem_rfla_1x():
    """Faster R-CNN with RFLA and CEM alone (table 5 of arXiv 2506.09897) on AI-TOD."""
    return experiment(efpnbs(rfla(faster_rcnn_r50(K)), fbsm=False), rcnn_1x(DATASET))


def faster_rcnn_r50_efpnbslight_rfla_dcloss_1x():
    """Faster R-CNN with RFLA, the light variant of E-FPN-BS (ours) and DCLoss on AI-TOD."""
    return experiment(dcloss(efpnbs(rfla(faster_rcnn_r50(K)), light=True)), rcnn_1x(DATASET))


def faster_rcnn_r50_efpnbs_p2p3_rfla_1x():
    """Faster R-CNN with RFLA and E-FPN-BS on P2 and P3 (figure 2 of arXiv 2506.09897) on AI-TOD."""
    return experiment(efpnbs(rfla(faster_rcnn_r50(K)), pairs=[["p5", "p2"], ["p5", "p3"]]), rcnn_1x(DATASET))


def faster_rcnn_r50_fbsm_rfla_1x():
    """Faster R-CNN with RFLA and FBSM alone (table 5 of arXiv 2506.09897) on AI-TOD."""
    return experiment(efpnbs(rfla(faster_rcnn_r50(K)), cem=False), rcnn_1x(DATASET))


def faster_rcnn_r50_fpn_maxiou_a8_1x():
    """Faster R-CNN baseline with anchors of 2 × stride, as arXiv 2506.09897 states them, on AI-TOD."""
    return experiment(anchors_8_to_128(faster_rcnn_r50(K)), rcnn_1x(DATASET))


def faster_rcnn_r50_fpn_nwd_1x():
    """Faster R-CNN with NWD: assigner, loss and NMS on AI-TOD."""
    return experiment(nwd(faster_rcnn_r50(K), loss_weight=10.0), nwd_1x(DATASET))


def faster_rcnn_r50_fpn_rfla_dcloss_1x():
    """Faster R-CNN with RFLA and DCLoss on AI-TOD."""
    return experiment(dcloss(rfla(faster_rcnn_r50(K))), rcnn_1x(DATASET))


def faster_rcnn_r50_fpn_rfla_dcloss_roi_1x():
    """Faster R-CNN with RFLA and DCLoss in the box head only on AI-TOD."""
    return experiment(dcloss(rfla(faster_rcnn_r50(K)), rpn=False), rcnn_1x(DATASET))


def faster_rcnn_r50_fpn_rka_1x():
    """Faster R-CNN with NWD-RKA on AI-TOD."""
    return experiment(rka(faster_rcnn_r50(K), topk=2), nwd_1x(DATASET))


def faster_rcnn_r50rsb_fpn_rfla_1x():
    """Faster R-CNN with RFLA on AI-TOD with the ResNet-50 of "ResNet strikes back" (a1)."""
    backbone = timm_backbone(R50_RSB, freeze_at=2)
    return experiment(
        rfla(for_weights_of(backbone, faster_rcnn_r50(K))), adamw_1x(DATASET, f"timm://{R50_RSB}", lr=2e-4)
    )


def faster_rcnn_r50_sarl_rfla_1x():
    """Faster R-CNN with RFLA and the SARL relay on AI-TOD."""
    return experiment(sarl(rfla(faster_rcnn_r50(K))), rcnn_1x(DATASET))


def faster_rcnn_swin_t_fpn_rfla_1x():
    """Faster R-CNN with RFLA on AI-TOD with a Swin-T."""
    backbone = timm_backbone(SWIN_T, drop_path_rate=0.2, out_norm=True)
    return experiment(rfla(for_weights_of(backbone, faster_rcnn_r50(K))), adamw_1x(DATASET, f"timm://{SWIN_T}"))
