"""Narrow models of any config, and one step of training or inference with them."""

from __future__ import annotations

import ast
import copy
import functools
from types import SimpleNamespace

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from d2tiny import model_zoo
from d2tiny.config import apply_overrides
from d2tiny.config.files import configs_root
from d2tiny.config.validate import components
from tests.helpers.images import item

NARROW_YAML = [
    "MODEL.RESNETS.DEPTH=18",
    "MODEL.RESNETS.RES2_OUT_CHANNELS=64",
    "MODEL.RESNETS.NORM=BN",
    "MODEL.BACKBONE.FREEZE_AT=0",
    "MODEL.FPN.OUT_CHANNELS=32",
    "MODEL.ROI_BOX_HEAD.FC_DIM=64",
]
BATCHES = {
    "normal": [item([[10, 10, 18, 17], [30, 40, 36, 47]]), item([[50, 20, 61, 33]])],
    "half-empty": [item([[10, 10, 18, 17]]), item([])],
    "empty": [item([]), item([])],
}
ASSIGNERS = {
    "hla": ("HLAAssigner",),
    "hla_wd": ("HLAAssigner", "metric=wd"),
    "maxiou": ("MaxIoUAssigner",),
    "maxiou_nwd": ("MaxIoUAssigner", "metric=nwd", "min_quality=0.3"),
    "rka": ("RKAAssigner",),
    "atss": ("ATSSAssigner",),
}
LOSSES = {
    "l1": ("SmoothL1Loss",),
    "dc": ("DCLoss", "learnable=ema"),
    "dc_formula": ("DCLoss", "mode=formula"),
    "giou": ("IoULoss", "kind=giou"),
    "iou2": ("IoULoss", "kind=iou2"),
    "sal": ("SALoss", "l1_weight=1.0"),
    "sal_image": ("SALoss", "base=giou", "stat_mode=image"),
    "sal_ema": ("SALoss", "stat_mode=ema"),
    "nwd": ("NWDLoss",),
}


def overrides(key, choice):
    """Return the config overrides that put an entry of ``ASSIGNERS`` or ``LOSSES`` at ``key``."""
    return [f"{key}={choice[0]}", *(f"{key}.{setting}" for setting in choice[1:])]


_load = functools.cache(model_zoo.get_config)


def config(name, changes=()):
    """Return the config of that name with overrides; the file is loaded once, which takes longer than copying it."""
    return apply_overrides(copy.deepcopy(_load(name)), changes)


def shared(module):
    """Return the functions of ``configs/common/<module>.py``, loaded in the way that configs import them."""
    path = configs_root() / "common" / f"{module}.py"
    names = tuple(node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    return SimpleNamespace(**dict(zip(names, LazyConfig.load(str(path), names), strict=True)))


PARTS = vars(shared("parts/rcnn"))
YOLO_PARTS, YOLO_MODELS = vars(shared("parts/yolo")), vars(shared("models/yolo"))

# What makes a component cheap and keeps the graph; channels follow by themselves.
_NARROW = {
    "BasicStem": {"norm": "BN"},
    "ResNet": {"freeze_at": 0},
    "ResNet.make_default_stages": {"depth": 18, "norm": "BN"},
    "DetectoRSResNet": {"depth": 18, "norm": "BN", "freeze_at": 0},
    "FPN": {"out_channels": 32},
    "FCOSHead": {"conv_dims": [64]},  # GN has 32 groups, and P7 of a small image has one cell
    "RetinaNetHead": {"conv_dims": [64]},
    "FastRCNNConvFCHead": {"fc_dims": [64, 64]},
    "CSPDarknet": {"depth": 0.33, "width": 0.125},
    "YOLO11Backbone": {"depth": 0.33, "width": 0.125},
    "PAFPN": {"repeats": 1},
    "YOLOXHead": {"width": 32},
    "ARB": {"stem_channels": [8, 16, 32], "repeats": 1},
    "TinyDINO": {"embed_dim": 32},
    "DeformableEncoder": {"num_layers": 1, "num_heads": 2, "feedforward_dim": 32},
    "DINODecoder": {"num_layers": 2},
    "FrozenExpert": {"weights": "random"},
}

_SWIN = "swin_{}_patch4_window7_224.ms_in1k"
_SMALLER = {  # models of timm
    "convnext_tiny.fb_in1k": "convnext_atto",
    "resnet50.a1_in1k": "resnet10t",
    "vit_small_patch14_dinov2.lvd142m": "test_vit",
    _SWIN.format("small"): _SWIN.format("tiny"),
}


def narrow(cfg):
    """Make a config cheap in place, with the same graph: a random ResNet-18 instead of ResNet-50, and few channels."""
    OmegaConf.set_struct(cfg, False)
    for _, node in components(cfg.model):
        name = getattr(node._target_, "__qualname__", str(node._target_).rsplit("d2tiny.", 1)[-1])
        node.update(_NARROW.get(name, {}))
        if name in ("TimmBackbone", "TimmViT"):
            node.model_name = _SMALLER.get(node.model_name, node.model_name)
        if name == "ResNet.make_default_stages":
            node.pop("stride_in_1x1", None)
        if name == "PAFPN" and isinstance(OmegaConf.to_container(node)["out_channels"], list):
            node.out_channels = [16, 32, 64, 64][-len(node.in_features) :]
    OmegaConf.set_struct(cfg, True)
    return cfg


def small(name="dino_r18", **changes):
    """Build the narrow model of a quick config from a fixed seed.

    Args:
        name: config in ``configs/quick``.
        changes: keys of the model's config, with ``__`` for the dot.
    """
    cfg = narrow(config(f"quick/{name}")).model
    OmegaConf.set_struct(cfg, False)
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    torch.manual_seed(0)
    return instantiate(cfg)


def settle(model):
    """Give parameters that are zero at first other values, so that nothing is hidden."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(std=0.05)
    return model


def step(model, batch):
    """Run a training step's forward and backward pass; every parameter must get a gradient."""
    model.train()
    with EventStorage(0):
        losses = model(batch)
    total = sum(losses.values())
    model.zero_grad()
    total.backward()
    assert torch.isfinite(total)
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def predict(model):
    """Return the detections on a fixed random image."""
    model.eval()
    torch.manual_seed(1)
    with torch.no_grad():
        return model([{"image": torch.randint(0, 255, (3, 70, 90), dtype=torch.uint8)}])[0]["instances"]


def calibrate(model, image):
    """Give a random model statistics and heads with which its predictions differ from place to place.

    Args:
        model: any detector.
        image: (H, W, 3) uint8, some 400 px: batch norms take their statistics.
    """
    generator, heads = torch.Generator().manual_seed(1), "cls bbox pred obj delta class_head box_head branches ctr"
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        x = (torch.from_numpy(image.transpose(2, 0, 1).copy()) - model.pixel_mean) / model.pixel_std
        features = model.backbone(x[None])
        if hasattr(model, "head"):
            model.head([features[name] for name in model.head_in_features])
        for name, module in model.named_modules():
            if type(module) in (torch.nn.Conv2d, torch.nn.Linear) and any(part in name for part in heads.split()):
                module.weight.normal_(std=0.3 * module.weight[0].numel() ** -0.5, generator=generator)
                if module.bias is not None:
                    module.bias.clamp_(min=-2)  # scores around 0.1
    return model.eval()
