"""Parts of the YOLO detectors: each function puts one part into a model's config and returns the model."""

from copy import deepcopy

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from d2tiny.modeling.backbone.staged import rounded
from d2tiny.modeling.losses import SALoss
from d2tiny.modeling.meta_arch import AuxiliaryBranch
from d2tiny.modeling.necks import ARB, MDCA, PFDH, SARL, NeckedBackbone

# Channels of the levels that a neck reads, behind the backbone beside it.
CHANNELS = "${channels:${..backbone},${.in_features}}"


def _nested(model):
    """The backbone of stages and the nodes that join it with its necks, from outside."""
    node, joints = model.backbone, []
    while "neck" in node:
        joints.append(node)
        node = node.backbone
    return node, joints


def _behind(model, neck):
    model.backbone = L(NeckedBackbone)(backbone=model.backbone, neck=neck)
    return model


def sarl(model, **settings):
    """The SARL relay between backbone and PAFPN; docs/papers/sarl.md."""
    innermost = _nested(model)[1][-1]
    levels = list(innermost.neck.in_features)
    relay = L(SARL)(in_channels=CHANNELS, in_features=levels, norm="YOLO", activation="silu", **settings)
    innermost.backbone = L(NeckedBackbone)(backbone=innermost.backbone, neck=relay)
    return model


def sal(model, **settings):
    """The scale-adaptive loss of boxes, in YOLOX with L1 throughout (eq. 3); docs/papers/sal.md."""
    model.head.box_loss = L(SALoss)(base="iou2", **settings)
    if "l1_weight" in model.head:
        model.head.l1_weight = 1.0
    return model


def mdca(model, **settings):
    """Attention behind the PAFPN; call it before pfdh; docs/papers/rs_tinynet.md."""
    return _behind(model, L(MDCA)(in_channels=CHANNELS, in_features=list(model.in_features), **settings))


def pfdh(model, **settings):
    """Progressive fusion before the head; docs/papers/rs_tinynet.md."""
    neck = dict(
        in_channels=CHANNELS,
        out_channels=None,
        in_features=list(model.in_features),
        skip="around",
        block="c3k2",
        min_width=32,
        repeats=2,
    )
    return _behind(model, L(PFDH)(**(neck | settings)))


def pfdh_literal(model):
    """PFDH as the paper shows it, a narrow chain to equal channels; docs/papers/rs_tinynet.md#pfdh."""
    return pfdh(model, skip="none", min_width=0, out_channels="${channels:${..backbone},${.in_features.0}}")


def arb(model, weight=0.25):
    """The auxiliary branch of training, its head like the main one on strides 8, 16, 32; docs/papers/rs_tinynet.md."""
    stages, _ = _nested(model)
    limit = stages.get("max_channels", 1024)
    stem = [rounded(min(c, limit) * stages.width) for c in (64, 128, 256 if "max_channels" in stages else 128)]
    head = deepcopy(model.head)
    head.strides, head.in_channels = [8, 16, 32], "${..neck.in_channels}"
    if "anchors" in head:
        head.anchors, head.balance = head.anchors[-3:], [4.0, 1.0, 0.4]
    for key in ("num_classes", "assigner", "box_loss"):  # what is changed in the one holds for the other
        head[key] = f"${{...head.{key}}}"
    neck = L(ARB)(
        in_channels="${channels:${...backbone},${.in_features}}",
        stem_channels=stem,
        repeats=max(round(2 * stages.depth), 1),
        c3k=stages.get("c3k", False),
        in_features=["c3", "c4", "c5"],
    )
    OmegaConf.set_struct(model, False)
    model.auxiliary = L(AuxiliaryBranch)(neck=neck, head=head, loss_weight=weight)
    return model


def rs_tinynet(model):
    """RS-TinyNet: MDCA, ARB and PFDH in YOLO11."""
    return pfdh(arb(mdca(model)))


def tiny_candidates(model, size=8.0):
    """Let TAL find candidates for objects that contain no point; docs/papers/rs_tinynet.md."""
    model.head.assigner.min_candidate_size = size
    return model


def p2(model):
    """One more level, of stride 4."""
    stages, joints = _nested(model)
    stages.out_features = ["c2", "c3", "c4", "c5"]
    for joint in joints:
        neck = joint.neck
        if "block" in neck:  # PAFPN
            neck.in_features = ["c2", "c3", "c4", "c5"]
            if not isinstance(OmegaConf.to_container(neck)["out_channels"], str):
                neck.out_channels = [neck.out_channels[0] // 2, *neck.out_channels]
        elif list(neck.in_features) == ["p3", "p4", "p5"]:
            neck.in_features = ["p2", "p3", "p4", "p5"]
    if "anchors" in model.head:
        model.head.anchors = [[[3, 3], [4, 4], [5, 5]], *model.head.anchors]
        model.head.balance = [4.0, 1.0, 0.25, 0.06]
    model.in_features = ["p2", "p3", "p4", "p5"]
    model.head.strides = [4, 8, 16, 32]
    return model
