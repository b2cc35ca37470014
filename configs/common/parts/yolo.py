"""Parts of the YOLO detectors: each function puts one part into a model's config and returns the model."""

from copy import deepcopy

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from d2tiny.modeling.backbone.staged import rounded
from d2tiny.modeling.losses import SALoss
from d2tiny.modeling.meta_arch import AuxiliaryBranch
from d2tiny.modeling.necks import ARB, MDCA, PAFPN, PFDH, SARL, NeckedBackbone
from d2tiny.utils.errors import ConfigError

# Channels of the levels that a neck reads, behind the backbone beside it.
CHANNELS = "${channels:${..backbone},${.in_features}}"


def _nested(model):
    """The backbone of stages and the nodes that join it with its necks, from outside."""
    node, joints = model.backbone, []
    while "neck" in node:
        joints.append(node)
        node = node.backbone
    return node, joints


def _is(node, cls):
    target = node._target_
    return (target if isinstance(target, str) else target.__name__).split(".")[-1] == cls.__name__


def _pyramid(model, part):
    """The node that joins the PAFPN with what is before it; parts stand on their sides of it in any order of calls."""
    pyramid = [joint for joint in _nested(model)[1] if _is(joint.neck, PAFPN)]
    if not pyramid:
        raise ConfigError(f"{part}: needs a model with a PAFPN: yolox(…), yolov5(…) or yolo11(…).")
    return pyramid[0]


def _refuse_second(model, part, neck):
    """A part is put into a model once."""
    if any(_is(joint.neck, neck) for joint in _nested(model)[1]):
        raise ConfigError(f"{part}: the model has this part already; call it once.")


def sarl(model, **settings):
    """The SARL relay between backbone and PAFPN; docs/papers/sarl.md."""
    _refuse_second(model, "sarl", SARL)
    pyramid = _pyramid(model, "sarl")
    levels = list(pyramid.neck.in_features)
    relay = L(SARL)(in_channels=CHANNELS, in_features=levels, norm="YOLO", activation="silu", **settings)
    pyramid.backbone = L(NeckedBackbone)(backbone=pyramid.backbone, neck=relay)
    return model


def l1(model):
    """L1 of the encoded boxes in YOLOX throughout, not in its last epochs only: SAL's rows have it too."""
    if "l1_weight" not in model.head:
        raise ConfigError("l1: needs the head of YOLOX; YOLOv5 has it in its box loss: `sal(model)`.")
    model.head.l1_weight = 1.0
    return model


def sal(model, **settings):
    """The scale-adaptive loss of boxes with L1 throughout (eq. 3) in YOLOX and YOLOv5; docs/papers/sal.md."""
    model.head.box_loss = L(SALoss)(base="iou2", **settings)
    if "l1_weight" in model.head:
        return l1(model)
    if "anchors" in model.head:
        model.head.box_loss.setdefault("l1_weight", 1.0)
    return model


def mdca(model, **settings):
    """Attention behind the PAFPN, before PFDH; docs/papers/rs_tinynet.md."""
    _refuse_second(model, "mdca", MDCA)
    pyramid = _pyramid(model, "mdca")
    neck = L(MDCA)(in_channels=CHANNELS, in_features=list(model.in_features), **settings)
    outer = next((joint for joint in _nested(model)[1] if joint.backbone is pyramid), model)
    outer.backbone = L(NeckedBackbone)(backbone=pyramid, neck=neck)
    return model


def pfdh(model, **settings):
    """Progressive fusion before the head; docs/papers/rs_tinynet.md#pfdh."""
    _refuse_second(model, "pfdh", PFDH)
    neck = dict(
        in_channels=CHANNELS,
        out_channels="${channels:${..backbone},${.in_features.0}}",
        in_features=list(model.in_features),
        skip="around",
        block="c3k2",
        min_width=0,
        repeats=2,
    )
    model.backbone = L(NeckedBackbone)(backbone=model.backbone, neck=L(PFDH)(**(neck | settings)))
    return model


def pfdh_literal(model):
    """PFDH as the paper shows it, a chain without a skip round it; docs/papers/rs_tinynet.md#pfdh."""
    return pfdh(model, skip="none")


def _stem_channels(stages, pyramid):
    """Channels of the first layers of ARB: of the own backbone of a YOLO; behind another, by those of the neck."""
    if "width" not in stages:
        third = pyramid.out_channels[-3]  # of stride 8
        return [third // 4, third // 2, third]
    limit = stages.get("max_channels", 1024)
    return [rounded(min(c, limit) * stages.width) for c in (64, 128, 256 if "max_channels" in stages else 128)]


def arb(model, weight=0.25):
    """The auxiliary branch of training, its head like the main one on strides 8, 16, 32; docs/papers/rs_tinynet.md."""
    if model.get("auxiliary") is not None:
        raise ConfigError("arb: the model has this part already; call it once.")
    stages, pyramid = _nested(model)[0], _pyramid(model, "arb").neck
    OmegaConf.set_struct(model, False)
    head = deepcopy(model.head)
    head.strides, head.in_channels = [8, 16, 32], "${..neck.in_channels}"
    if "anchors" in head:
        head.anchors, head.balance = head.anchors[-3:], [4.0, 1.0, 0.4]
    for key in ("num_classes", "assigner", "box_loss", "l1_weight"):  # what is changed in the one holds for the other
        if key in head:
            head[key] = f"${{...head.{key}}}"
    neck = L(ARB)(
        in_channels="${channels:${...backbone},${.in_features}}",
        stem_channels=_stem_channels(stages, pyramid),
        repeats=max(round(2 * stages.depth), 1) if "depth" in stages else pyramid.repeats,
        c3k=stages.get("c3k", pyramid.get("c3k", False)),
        in_features=list(pyramid.in_features)[-3:],
    )
    model.auxiliary = L(AuxiliaryBranch)(neck=neck, head=head, loss_weight=weight)
    return model


def rs_tinynet(model):
    """RS-TinyNet: MDCA, ARB and PFDH in YOLO11."""
    return pfdh(arb(mdca(model)))


def rs_tinynet_literal(model):
    """RS-TinyNet with PFDH as the paper shows it."""
    return pfdh_literal(arb(mdca(model)))


def tiny_candidates(model, size=8.0):
    """Let TAL find candidates for objects that contain no place of a level; docs/papers/rs_tinynet.md#tiny-objects."""
    if "min_candidate_size" not in model.head.assigner:
        raise ConfigError("tiny_candidates: only TAL (YOLO11) leaves tiny objects without candidates.")
    model.head.assigner.min_candidate_size = size
    return model


def p2(model):
    """One more level, of stride 4, in all parts that there are."""
    if "p2" in model.in_features:
        raise ConfigError("p2: the model has a level of stride 4 already.")
    stages, joints = _nested(model)
    name = _pyramid(model, "p2").neck.in_features[0][:-1]  # c, or res of timm
    stages.out_features = [f"{name}{level}" for level in range(2, 6)]
    for neck in (joint.neck for joint in joints):
        neck.in_features = [f"{neck.in_features[0][:-1]}2", *neck.in_features]  # c2, res2 or p2
        if _is(neck, PAFPN) and not isinstance(OmegaConf.to_container(neck)["out_channels"], str):
            neck.out_channels = [neck.out_channels[0] // 2, *neck.out_channels]
    if "anchors" in model.head:
        model.head.anchors = [[[3, 3], [4, 4], [5, 5]], *model.head.anchors]
        model.head.balance = [4.0, 1.0, 0.25, 0.06]
    model.in_features = ["p2", "p3", "p4", "p5"]
    model.head.strides = [4, 8, 16, 32]
    return model
