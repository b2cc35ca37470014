"""Changes that experiments share; each takes a model's config and alters it."""

from detectron2.config import LazyCall as L

from d2tiny.modeling.assigners import HLAAssigner, MaxIoUAssigner, RKAAssigner
from d2tiny.modeling.backbone import RFP, DetectoRSResNet
from d2tiny.modeling.losses import DCLoss, IoULoss, NWDLoss
from d2tiny.modeling.necks import EFPNBS, SARL, NeckedBackbone
from d2tiny.modeling.priors import RFAnchorGenerator
from d2tiny.utils.errors import ConfigError


def pyramid_of(backbone):
    """The FPN inside a backbone, whatever is around it."""
    for key in ("backbone", "fpn"):
        if key in backbone:
            return pyramid_of(backbone[key])
    return backbone


def box_predictors(model):
    """One box predictor, or those of a cascade."""
    heads = model.roi_heads
    return list(heads.box_predictors) if "box_predictors" in heads else [heads.box_predictor]


def rfla(model):
    """Receptive-field anchors and hierarchical label assignment (SPEC §1)."""
    rpn = model.proposal_generator
    rpn.anchor_generator = L(RFAnchorGenerator)(
        strides=[4, 8, 16, 32, 64], fraction=0.5, aspect_ratios=[0.5, 1.0, 2.0], offset=0.0
    )
    rpn.assigner = L(HLAAssigner)(metric="kld", topk=(3, 1), ratio=0.9)


def rfla_dense(model):
    """RFLA in a dense head: its anchors are receptive fields, its points lie in the middle of them (SPEC §1.2)."""
    head = model.head
    strides, anchors = head.anchor_generator.strides, list(head.anchor_generator.aspect_ratios)
    fields = L(RFAnchorGenerator)(
        strides=strides, fraction=0.5, aspect_ratios=anchors, offset=head.anchor_generator.offset
    )
    head.assigner = L(HLAAssigner)(metric="kld", topk=(3, 1), ratio=0.9)
    if "FCOSHead" in str(head.net._target_):
        head.assign_generator = fields
    else:
        head.anchor_generator, head.box_loss = fields, L(IoULoss)(kind="diou")


def quick_dense(model, small):
    """A dense detector as narrow as ``small``, the quick Faster R-CNN's model, on its own levels."""
    backbone, width = small.backbone, small.backbone.out_channels
    backbone.bottom_up.out_features = model.backbone.bottom_up.out_features
    backbone.top_block = model.backbone.top_block
    if "in_channels" in backbone.top_block:
        backbone.top_block.in_channels = backbone.top_block.out_channels = width
    model.backbone = backbone
    model.head.net.conv_dims = [width, width]
    for shape in model.head.net.input_shape:
        shape.channels = width
    model.head.max_detections = 1500


def efpnbs(model, **settings):
    """E-FPN-BS behind the pyramid (SPEC §3); gates are a quarter as wide, as 64 of 256 in the paper's model."""
    width = pyramid_of(model.backbone).out_channels
    neck = L(EFPNBS)(channels=width, mid_channels=width // 4, **settings)
    model.backbone = L(NeckedBackbone)(backbone=model.backbone, neck=neck)


def dcloss(model):
    """DCLoss in RPN and box heads (SPEC §3.4)."""
    for part in (model.proposal_generator, *box_predictors(model)):
        part.box_loss = L(DCLoss)(k=10.0, delta=0.15, mode="prose")


def sarl(model, channels=None, **settings):
    """The relay between a backbone and its pyramid (SPEC §6); other backbones than ResNet need their channels given."""
    fpn = pyramid_of(model.backbone)
    levels = list(fpn.in_features)
    if "DetectoRSResNet" in str(fpn.bottom_up._target_):
        raise ConfigError("sarl: the recursive pyramid reads its backbones itself; SARL stands before an ordinary FPN.")
    if channels is None:
        if "stages" not in fpn.bottom_up:
            raise ConfigError(f"sarl: give channels=[…] of the backbone's levels {levels}.")
        wide = [256, 512, 1024, 2048] if fpn.bottom_up.stages.depth >= 50 else [64, 128, 256, 512]
        channels = [wide[int(name[3:]) - 2] for name in levels]
    neck = L(SARL)(channels=channels, levels=levels, **settings)
    fpn.bottom_up = L(NeckedBackbone)(backbone=fpn.bottom_up, neck=neck)
    fpn.in_features = levels


def detectors(model):
    """DetectoRS: switchable atrous convolution and the recursive pyramid (SPEC §9)."""
    fpn = model.backbone
    if "bottom_up" not in fpn or "stages" not in fpn.bottom_up:
        raise ConfigError("detectors: needs a ResNet and an FPN; call it before efpnbs, and not with sarl.")
    plain, levels = fpn.bottom_up, list(fpn.in_features)
    settings = dict(depth=plain.stages.depth, norm=plain.stages.norm, freeze_at=plain.freeze_at, out_features=levels)
    settings["stride_in_1x1"] = plain.stages.get("stride_in_1x1", False)  # True for the MSRA weights
    fpn.bottom_up = L(DetectoRSResNet)(**settings)
    fpn.in_features = levels
    second = L(DetectoRSResNet)(**settings, prefix="rfp_", feedback_channels=fpn.out_channels)
    model.backbone = L(RFP)(fpn=fpn, second=second)


def nwd(model, loss_weight=10.0):
    """NWD as assigner, loss of decoded boxes, and NMS of proposals (SPEC §2)."""
    rpn = model.proposal_generator
    rpn.assigner = L(MaxIoUAssigner)(metric="nwd", pos_iou=0.7, neg_iou=0.3, min_quality=0.3)
    rpn.box_loss = L(NWDLoss)(loss_weight=loss_weight)
    rpn.nms_metric, rpn.nms_thresh = "nwd", 0.85


def rka(model, topk=2):
    """NWD-RKA: each object takes its k best anchors (SPEC §2)."""
    model.proposal_generator.assigner = L(RKAAssigner)(topk=topk, constant=12.7)
