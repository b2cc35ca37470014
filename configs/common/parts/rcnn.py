"""Parts of R-CNNs, FCOS and RetinaNet: each function puts one part into a model's config and returns the model."""

from copy import deepcopy

from detectron2.config import LazyCall as L

from d2tiny.modeling.assigners import HLAAssigner, MaxIoUAssigner, RKAAssigner
from d2tiny.modeling.backbone import RFP, DetectoRSResNet
from d2tiny.modeling.losses import DCLoss, IoULoss, NWDLoss, SALoss, SmoothL1Loss
from d2tiny.modeling.necks import EFPNBS, SARL, NeckedBackbone
from d2tiny.modeling.priors import RFAnchorGenerator
from d2tiny.utils.errors import ConfigError


def box_predictors(model):
    """The box predictor of a model, or those of all stages of a cascade, as a list."""
    heads = model.roi_heads
    return list(heads.box_predictors) if "box_predictors" in heads else [heads.box_predictor]


def rfla(model, topk=(3, 1)):
    """Receptive-field anchors and hierarchical label assignment; docs/papers/rfla.md."""
    rpn = model.proposal_generator
    rpn.anchor_generator = L(RFAnchorGenerator)(
        strides=[4, 8, 16, 32, 64], fraction=0.5, aspect_ratios=[0.5, 1.0, 2.0], offset=0.0
    )
    rpn.assigner = L(HLAAssigner)(metric="kld", topk=topk, ratio=0.9)
    return model


def rfla_dense(model):
    """RFLA in a dense head: its anchors are receptive fields, its points are their centres; docs/papers/rfla.md."""
    head = model.head
    generator = head.anchor_generator
    fields = L(RFAnchorGenerator)(
        strides=generator.strides,
        fraction=0.5,
        aspect_ratios=list(generator.aspect_ratios),
        offset=generator.offset,
    )
    head.assigner = L(HLAAssigner)(metric="kld", topk=(3, 1), ratio=0.9)
    if "FCOSHead" in str(head.net._target_):
        head.assign_generator = fields
    else:
        head.anchor_generator, head.box_loss = fields, L(IoULoss)(kind="diou")
    return model


def anchors_8_to_128(model):
    """Anchors of 8 to 128 px, 2 x stride: the fair opponent of methods for tiny objects."""
    model.proposal_generator.anchor_generator.sizes = [[8], [16], [32], [64], [128]]
    return model


def efpnbs(model, **settings):
    """E-FPN-BS behind the pyramid; gates are a quarter as wide, as 64 of 256 in the paper; docs/papers/efpn_bs.md."""
    neck = L(EFPNBS)(channels="${channels:${..backbone}}", mid_channels="${div:${.channels},4}", **settings)
    model.backbone = L(NeckedBackbone)(backbone=model.backbone, neck=neck)
    return model


def efpnbs_taught(model, mask_loss_weight=0.5, **settings):
    """E-FPN-BS that keeps P2 and adds to it, with masks taught by the boxes (ours); docs/papers/efpn_bs.md."""
    return efpnbs(model, residual=True, mask_loss_weight=mask_loss_weight, **settings)


def _box_loss(model, cls, **settings):
    """Another box loss in RPN and box heads."""
    for part in (model.proposal_generator, *box_predictors(model)):
        part.box_loss = L(cls)(**settings)
    return model


def dcloss(model, mode="prose", delta=0.15, roi_delta=None, rpn=True, roi=True, roi_unit=1.0, rpn_weight=1.0):
    """DCLoss in RPN and box heads, or in one of them; docs/papers/dcloss.md.

    `roi_delta` is δ of the box heads if it is another one. They encode with weights of 10: there `roi_unit=10.0` gives
    δ the meaning that it has in the RPN. `rpn_weight=1.6` gives the RPN back what the loss takes from its gradient.
    """
    if not (rpn or roi):
        raise ConfigError("dcloss: rpn and roi are both off; leave the part out instead.")
    if rpn:
        model.proposal_generator.box_loss = L(DCLoss)(k=10.0, delta=delta, mode=mode, loss_weight=rpn_weight)
    for part in box_predictors(model) if roi else ():
        part.box_loss = L(DCLoss)(k=10.0, delta=delta if roi_delta is None else roi_delta, mode=mode, unit=roi_unit)
    return model


def l1(model):
    """L1 in RPN and box heads: what DCLoss is to be compared with in a cascade, whose own loss is smooth L1."""
    return _box_loss(model, SmoothL1Loss, beta=0.0)


def sal(model, base="iou2", loss_weight=5.0):
    """The scale-adaptive loss in RPN and box heads; docs/papers/sal.md.

    Losses of decoded boxes are at most 1 or 2, the L1 loss of encoded deltas is larger: the weight makes up for it.
    """
    return _box_loss(model, SALoss, base=base, loss_weight=loss_weight)


def nwd_loss(model, loss_weight=5.0):
    """The NWD loss in RPN and box heads; docs/papers/nwd.md."""
    return _box_loss(model, NWDLoss, loss_weight=loss_weight)


def sarl(model, **settings):
    """The SARL relay between a backbone and its FPN; docs/papers/sarl.md."""
    fpn = model.backbone
    if "bottom_up" not in fpn:
        raise ConfigError(
            "sarl: stands between a backbone and an ordinary FPN; call it before efpnbs, and not with detectors: the "
            "recursive pyramid reads its backbones itself."
        )
    levels = list(fpn.in_features)
    neck = L(SARL)(in_channels="${channels:${..backbone},${.in_features}}", in_features=levels, **settings)
    fpn.bottom_up = L(NeckedBackbone)(backbone=fpn.bottom_up, neck=neck)
    fpn.in_features = levels
    return model


def detectors(model):
    """Switchable atrous convolutions in the ResNet and a recursive pyramid (DetectoRS); docs/papers/detectors.md."""
    fpn = model.backbone
    if "bottom_up" not in fpn or "stages" not in fpn.bottom_up:
        raise ConfigError("detectors: needs a ResNet and an FPN; call it before efpnbs, and not with sarl.")
    resnet = fpn.bottom_up
    settings = dict(
        depth=resnet.stages.depth,
        norm=resnet.stages.norm,
        freeze_at=resnet.freeze_at,
        out_features=resnet.out_features,
        stride_in_1x1=resnet.stages.get("stride_in_1x1", False),  # True for the MSRA weights
    )
    fpn.bottom_up = L(DetectoRSResNet)(**settings)
    second = L(DetectoRSResNet)(**settings, prefix="rfp_", feedback_channels="${..fpn.out_channels}")
    model.backbone = L(RFP)(fpn=fpn, second=second)
    return model


def recursive(model):
    """The recursive pyramid of DetectoRS on a backbone of timm, without its switchable convolutions.

    Those replace dense 3×3 convolutions, which EfficientNets, ConvNeXts and Swins have not; docs/papers/detectors.md.
    """
    fpn = model.backbone
    if "bottom_up" not in fpn or "model_name" not in fpn.bottom_up:
        raise ConfigError("recursive: needs a backbone of timm and an FPN; call it before efpnbs, and not with sarl.")
    second = deepcopy(fpn.bottom_up)
    second.feedback_channels = "${..fpn.out_channels}"
    model.backbone = L(RFP)(fpn=fpn, second=second)
    return model


def nwd(model, loss_weight=10.0):
    """NWD as assigner, loss of decoded boxes, and NMS of proposals; docs/papers/nwd.md."""
    rpn = model.proposal_generator
    rpn.assigner = L(MaxIoUAssigner)(metric="nwd", pos_iou=0.7, neg_iou=0.3, min_quality=0.3)
    rpn.box_loss = L(NWDLoss)(loss_weight=loss_weight)
    rpn.nms_metric, rpn.nms_thresh = "nwd", 0.85
    return model


def rka(model, topk=2):
    """NWD-RKA: each object takes its k best anchors; docs/papers/nwd.md."""
    model.proposal_generator.assigner = L(RKAAssigner)(topk=topk, constant=12.7)
    return model


def narrow_box_heads(model, width):
    """Fewer channels in the layers of the three box heads, which are most of a small cascade's weights."""
    for head in model.roi_heads.box_heads:
        head.fc_dims = [width, width]
    return model
