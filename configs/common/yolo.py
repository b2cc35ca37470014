"""Sizes and parts of the YOLO detectors; each function takes a model's config and alters it."""

from copy import deepcopy

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from d2tiny.modeling.backbone.staged import rounded
from d2tiny.modeling.losses import SALoss
from d2tiny.modeling.meta_arch import AuxiliaryBranch
from d2tiny.modeling.necks import ARB, MDCA, PFDH, SARL, NeckedBackbone
from d2tiny.utils.errors import ConfigError, did_you_mean

# depth, width, and for YOLO11 the limit of the channels and the larger blocks
SIZES = {
    "CSPDarknet": {"s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0)},
    "YOLO11Backbone": {
        "n": (0.5, 0.25, 1024, False),
        "s": (0.5, 0.5, 1024, False),
        "m": (0.5, 1.0, 512, True),
        "l": (1.0, 1.0, 512, True),
    },
}


def _name(node):
    return str(node._target_).rsplit(".", 1)[-1].rstrip("'>")


def chain(model):
    """The backbone of stages, and the necks around it from inside."""
    node, necks = model.backbone, []
    while "neck" in node:
        necks.insert(0, node.neck)
        node = node.backbone
    return node, necks


def yolo_size(model, size):
    """Depth and width of s, m, l (and n of YOLO11)."""
    stages, _ = chain(model)
    keys = ("depth", "width", "max_channels", "c3k")
    sizes = SIZES[_name(stages)]
    if size not in sizes:
        raise ConfigError(f"yolo_size: {_name(stages)} has no size '{size}'. {did_you_mean(size, sizes)}")
    stages.update(dict(zip(keys, sizes[size], strict=False)))
    fit(model)


def fit(model):
    """Give every part the channels that the backbone's size asks for."""
    stages, necks = chain(model)
    v11 = _name(stages) == "YOLO11Backbone"
    limit = stages.max_channels if v11 else 1024

    def wide(channels):
        return rounded(min(channels, limit) * stages.width)

    outs = (256, 512, 512, 1024) if v11 else (128, 256, 512, 1024)
    channels = {f"c{i}": wide(c) for i, c in zip((2, 3, 4, 5), outs, strict=True)}
    for neck in necks:
        kind = _name(neck)
        if kind == "PAFPN":
            neck.in_channels = [channels[name] for name in neck.in_features]
            new = [wide(32 << int(name[-1])) for name in neck.in_features] if v11 else neck.in_channels
            neck.out_channels = list(new)
            neck.repeats = max(round((2 if v11 else 3) * stages.depth), 1)
            if v11:
                neck.c3k = stages.c3k
            channels.update({f"p{name[-1]}": c for name, c in zip(neck.in_features, new, strict=True)})
        elif kind == "PFDH":
            neck.in_channels = [channels[name] for name in neck.levels]
            neck.out_channels = channels[neck.levels[0]]
            channels.update(dict.fromkeys(neck.levels, neck.out_channels))
        else:
            neck.channels = [channels[name] for name in neck.levels]
    model.head.in_channels = [channels[name] for name in model.in_features]
    if "width" in model.head:
        model.head.width = wide(256)
    if model.get("auxiliary") is not None:
        branch = model.auxiliary.neck
        branch.channels = [channels[name] for name in branch.in_features]
        branch.stem = [wide(64), wide(128), channels["c2"]]
        branch.repeats, branch.c3k = max(round(2 * stages.depth), 1), stages.get("c3k", False)
        model.auxiliary.head.in_channels = branch.channels


def yolo_sarl(model, **settings):
    """The relay between backbone and PAFPN (SPEC §6)."""
    pyramid = model.backbone
    while _name(pyramid.neck) != "PAFPN":
        pyramid = pyramid.backbone
    levels = list(pyramid.neck.in_features)
    relay = L(SARL)(channels=[0] * len(levels), levels=levels, norm="YOLO", activation="silu", **settings)
    pyramid.backbone = L(NeckedBackbone)(backbone=pyramid.backbone, neck=relay)
    fit(model)


def yolo_sal(model, **settings):
    """The scale-adaptive loss of boxes (SPEC §5), with L1 throughout in YOLOX (eq. 3)."""
    model.head.box_loss = L(SALoss)(base="iou2", **settings)
    if "l1_weight" in model.head:
        model.head.l1_weight = 1.0


def _behind(model, neck):
    model.backbone = L(NeckedBackbone)(backbone=model.backbone, neck=neck)
    fit(model)


def mdca(model, **settings):
    """Attention behind the PAFPN (SPEC §7.2); call it before pfdh."""
    levels = list(model.in_features)
    _behind(model, L(MDCA)(channels=[0] * len(levels), levels=levels, **settings))


def pfdh(model, **settings):
    """Progressive fusion before the head (SPEC §7.4)."""
    levels = list(model.in_features)
    _behind(model, L(PFDH)(in_channels=[0] * len(levels), out_channels=0, levels=levels, **settings))


def arb(model, weight=0.25):
    """The auxiliary branch of training (SPEC §7.3), with a head like the main one on strides 8, 16, 32."""
    head = deepcopy(model.head)
    head.strides = [8, 16, 32]
    if "anchors" in head:
        head.anchors, head.balance = head.anchors[-3:], [4.0, 1.0, 0.4]
    for key in ("num_classes", "assigner", "box_loss"):  # what is changed in the one holds for the other
        head[key] = f"${{...head.{key}}}"
    OmegaConf.set_struct(model, False)
    model.auxiliary = L(AuxiliaryBranch)(
        neck=L(ARB)(channels=[0] * 3, stem=[0] * 3, repeats=1, c3k=True), head=head, loss_weight=weight
    )
    model.auxiliary.neck.in_features = ["c3", "c4", "c5"]
    fit(model)


def tiny_candidates(model, size=8.0):
    """Let TAL find places for objects that contain none (SPEC §7.1)."""
    model.head.assigner.min_candidate_size = size


def p2(model):
    """One more level, of stride 4."""
    stages, necks = chain(model)
    stages.out_features = ["c2", "c3", "c4", "c5"]
    for neck in necks:
        if "in_features" in neck:
            neck.in_features = ["c2", "c3", "c4", "c5"]
        elif list(neck.levels) == ["p3", "p4", "p5"]:
            neck.levels = ["p2", "p3", "p4", "p5"]
    if "anchors" in model.head:
        model.head.anchors = [[[3, 3], [4, 4], [5, 5]], *model.head.anchors]
        model.head.balance = [4.0, 1.0, 0.25, 0.06]
    model.in_features = ["p2", "p3", "p4", "p5"]
    model.head.strides = [4, 8, 16, 32]
    fit(model)
