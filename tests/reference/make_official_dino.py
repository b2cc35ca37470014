"""Run the official DINO on the small model of ``dino_case.py`` and write ``official_dino.json``.

IDEA-Research/DINO (https://github.com/IDEA-Research/DINO, Apache-2.0) is not part of this repository; nothing of it is
copied. With a checkout of it beside this one:

    PYTHONPATH=.:OFFICIAL python -m tests.reference.make_official_dino COMMIT

Its settings are those of ``DINO_4scale.py`` with the sizes of the case and Detectron2's small ResNet as backbone. It
runs on the CPU as ``make_detrex_dino.py`` says, with the same two constants changed. The losses have detrex's names.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torchvision
from detectron2.structures import Boxes

from tests.reference import dino_case as case
from tests.reference.make_detrex_dino import EPS, StandIn, check, described, on_cpu, provenance, summary, write

MODELS = "models.dino"
FILE = case.file("official")
WEIGHTS = {"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def module(name):
    return importlib.import_module(f"{MODELS}.{name}")


def backbone(options):
    """The case's backbone, with masks and position embeddings as the official code expects them."""
    nested = importlib.import_module("util.misc").NestedTensor
    body = case.backbone()
    maps = body.forward

    def forward(images):
        out = {}
        for name, values in maps(images.tensors).items():
            mask = torch.nn.functional.interpolate(images.mask[None].float(), size=values.shape[-2:])
            out[name] = nested(values, mask[0].bool())
        return out

    body.forward = forward
    joined = module("backbone").Joiner(body, module("position_encoding").build_position_encoding(options))
    joined.num_channels = list(case.SIZES["official"].backbone)
    return joined


def build():
    s = case.SIZES["official"]
    given = {k: v for k, v in vars(importlib.import_module("config.DINO.DINO_4scale")).items() if k[0] != "_"}
    given |= {
        "num_classes": s.classes,
        "dn_labelbook_size": s.labels - 1,
        "num_queries": s.queries,
        "dim_feedforward": s.hidden,
        "enc_layers": s.encoder,
        "dec_layers": s.decoder,
        "dn_number": case.DENOISING["official"],
        "dn_label_noise_ratio": 0.0,
        "dn_box_noise_scale": 1.0,
        "num_select": case.DETECTIONS,
    }
    options = argparse.Namespace(**given, device="cpu", dataset_file="coco")
    with patch.object(module("dino"), "build_backbone", backbone):
        model, criterion, post = module("dino").build_dino(options)
    model.load_state_dict(case.weights("official"), strict=True)
    return model, criterion, post["bbox"]


def images():
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return [(item["image"] - mean) / std for item in case.batch()]


def targets():
    out = []
    for item in case.batch():
        objects = item["instances"]
        height, width = objects.image_size
        x1, y1, x2, y2 = (objects.gt_boxes.tensor / torch.tensor([width, height, width, height])).unbind(1)
        boxes = torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), dim=1)
        out.append({"labels": objects.gt_classes, "boxes": boxes})
    return out


def training_step(model, criterion):
    """Weighted losses under detrex's names, and what they are computed from."""
    seen = {}

    def encoder(_, __, kwargs, out):
        seen["memory"], seen["mask"] = out[0], kwargs["key_padding_mask"]

    hook = model.transformer.encoder.register_forward_hook(encoder, with_kwargs=True)
    model.train()
    criterion.train()
    model.zero_grad()
    outputs = model(images(), targets())
    hook.remove()
    losses = {}
    for name, value in criterion(outputs, targets()).items():
        own = name.replace("loss_ce", "loss_class").replace("_interm", "_enc")
        kind = "_".join(own.split("_")[:2])
        if kind in WEIGHTS:
            losses[own] = WEIGHTS[kind] * value
    return losses, SimpleNamespace(outputs=outputs, **seen)


def detect(model, post):
    """Detections of each image, cut at its edges."""
    found = []
    model.eval()
    for image in images():
        with torch.no_grad():
            (result,) = post(model([image]), torch.tensor([image.shape[-2:]]))
        boxes = Boxes(result["boxes"])
        boxes.clip(image.shape[-2:])
        found.append(described(result["scores"], result["labels"], boxes.tensor))
    return found


def main(commit):
    sys.modules["MultiScaleDeformableAttention"] = StandIn("MultiScaleDeformableAttention")
    attention = importlib.import_module(f"{MODELS}.ops.modules.ms_deform_attn")
    plain = importlib.import_module(f"{MODELS}.ops.functions.ms_deform_attn_func").ms_deform_attn_core_pytorch
    function = SimpleNamespace(apply=lambda value, sizes, _, places, shares, __: plain(value, sizes, places, shares))
    with ExitStack() as stack:
        on_cpu(stack)
        stack.enter_context(case.fixed_noise(patch.object))
        stack.enter_context(patch.object(attention, "MSDeformAttnFunction", function))
        for name in ("dino", "deformable_transformer", "dn_components"):
            stack.enter_context(
                patch.object(module(name), "inverse_sigmoid", partial(module(name).inverse_sigmoid, eps=EPS))
            )
        model, criterion, post = build()
        check(model, lambda m: training_step(m, criterion), model.transformer.enc_out_class_embed)
        with_eps, _ = training_step(model, criterion)
        boxes = importlib.import_module("util.box_ops")
        stack.enter_context(patch.object(boxes, "generalized_box_iou", torchvision.ops.generalized_box_iou))
        stack.enter_context(patch.object(module("matcher"), "generalized_box_iou", torchvision.ops.generalized_box_iou))
        losses, seen = training_step(model, criterion)
        encoder = seen.outputs["interm_outputs"]
        numbers = summary(model, losses, seen.outputs, encoder, seen.memory, ~seen.mask)
        numbers |= {"detections": detect(model, post)}
    what = "IDEA-Research/DINO (https://github.com/IDEA-Research/DINO, Apache-2.0), by make_official_dino.py"
    write(FILE, provenance(what, commit), numbers, with_eps)


if __name__ == "__main__":
    main(sys.argv[1])
