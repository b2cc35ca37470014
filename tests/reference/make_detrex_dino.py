"""Run detrex's DINO on the small model of ``dino_case.py`` and write ``detrex_dino.json``.

detrex (https://github.com/IDEA-Research/detrex, Apache-2.0) is not part of this repository; nothing of it is copied.
With a checkout of it beside this one:

    PYTHONPATH=.:DETREX python -m tests.reference.make_detrex_dino COMMIT

It runs on the CPU: packages that DINO does not use are stand-ins, ``.cuda()`` does nothing, and deformable attention is
detrex's own in PyTorch. Changed are two constants, which d2tiny has smaller on purpose: ε of the inverse sigmoid (1e-3,
here 1e-5) and of IoU and GIoU (1e-6, here none). Losses with detrex's own ε of IoU are stored beside.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from contextlib import ExitStack
from functools import partial
from unittest.mock import patch

import detectron2
import numpy as np
import torch
import torchvision
from torch import nn

from tests.reference import dino_case as case

ABSENT = ("fairscale", "fairscale.nn", "fairscale.nn.checkpoint", "wandb", "einops", "pkg_resources", "detrex._C")
DINO = "projects.dino.modeling"
EPS = 1e-5
FILE = case.file("detrex")


class StandIn(types.ModuleType):
    """A package that is imported and not used."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda value=None, *_, **__: value


def on_cpu(stack):
    """Let ``.cuda()`` and ``.to("cuda")`` leave tensors where they are."""
    to = torch.Tensor.to
    stack.enter_context(patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self))
    stack.enter_context(
        patch.object(torch.Tensor, "to", lambda self, *a, **k: self if a == ("cuda",) else to(self, *a, **k))
    )


def build():
    """Detrex's DINO with the weights of the case."""
    parts, layers, modeling = (importlib.import_module(n) for n in (DINO, "detrex.layers", "detrex.modeling"))
    from detectron2.layers import ShapeSpec

    s = case.SIZES["detrex"]
    names = ["res3", "res4", "res5"]
    size = {
        "embed_dim": s.channels,
        "num_heads": s.heads,
        "feedforward_dim": s.hidden,
        "attn_dropout": 0.0,
        "ffn_dropout": 0.0,
        "num_feature_levels": s.levels,
        "use_checkpoint": False,
    }
    kinds = {"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
    ends = ["", "_enc", "_dn", *(f"{dn}_{i}" for dn in ("", "_dn") for i in range(s.decoder - 1))]
    model = parts.DINO(
        backbone=case.backbone(),
        position_embedding=layers.PositionEmbeddingSine(
            num_pos_feats=s.channels // 2, temperature=10000, normalize=True, offset=-0.5
        ),
        neck=modeling.ChannelMapper(
            input_shapes={n: ShapeSpec(channels=c) for n, c in zip(names, s.backbone, strict=True)},
            in_features=names,
            out_channels=s.channels,
            num_outs=s.levels,
            kernel_size=1,
            norm_layer=nn.GroupNorm(32, s.channels),
        ),
        transformer=parts.DINOTransformer(
            encoder=parts.DINOTransformerEncoder(num_layers=s.encoder, post_norm=False, **size),
            decoder=parts.DINOTransformerDecoder(num_layers=s.decoder, return_intermediate=True, **size),
            num_feature_levels=s.levels,
            two_stage_num_proposals=s.queries,
        ),
        embed_dim=s.channels,
        num_classes=s.classes,
        num_queries=s.queries,
        criterion=parts.DINOCriterion(
            num_classes=s.classes,
            matcher=modeling.HungarianMatcher(cost_class=2.0, cost_bbox=5.0, cost_giou=2.0),
            weight_dict={f"{kind}{end}": value for kind, value in kinds.items() for end in ends},
        ),
        select_box_nums_for_evaluation=case.DETECTIONS,
        device="cpu",
        dn_number=case.DENOISING["detrex"],
        label_noise_ratio=0.0,
        box_noise_scale=1.0,
    )
    model.load_state_dict(case.weights("detrex"), strict=True)
    return model


def training_step(model):
    """Losses and what they are computed from, by name."""
    seen = {}

    def encoder(_, __, kwargs, memory):
        seen["memory"], seen["mask"] = memory, kwargs["query_key_padding_mask"]

    def criterion(_, args):
        seen["outputs"] = args[0]

    hooks = [
        model.transformer.encoder.register_forward_hook(encoder, with_kwargs=True),
        model.criterion.register_forward_pre_hook(criterion),
    ]
    model.train()
    model.zero_grad()
    losses = model(case.batch())
    for hook in hooks:
        hook.remove()
    return losses, seen


def record(model):
    """All numbers of the json."""
    losses, seen = training_step(model)
    detections = []
    numbers = summary(model, losses, seen["outputs"], seen["outputs"]["enc_outputs"], seen["memory"], ~seen["mask"])
    model.eval()
    for item in case.batch():  # alone: in evaluation detrex takes padding for image
        with torch.no_grad():
            found = model([item])[0]["instances"]
        detections.append(described(found.scores, found.pred_classes, found.pred_boxes.tensor))
    return numbers | {"detections": detections}


def described(scores, classes, boxes):
    return {"scores": case.rounded(scores), "classes": classes.tolist(), "boxes": case.rounded(boxes)}


def summary(model, losses, last, encoder, memory, valid):
    """What a training step says, from its losses, predictions (dicts with those of earlier layers) and memory."""
    sum(losses.values()).backward()
    keys = ("pred_logits", "pred_boxes")
    parameters = {case.short(name): p for name, p in model.named_parameters()}
    return {
        "valid_tokens": valid.sum(1).tolist(),
        "memory": [case.fingerprint(f"memory {i}", m[v]) for i, (m, v) in enumerate(zip(memory, valid, strict=True))],
        "encoder": {key: case.fingerprint(key, encoder[key]) for key in keys},
        "layers": [{key: case.fingerprint(key, layer[key]) for key in keys} for layer in [*last["aux_outputs"], last]],
        "last": {key: case.rounded(last[key].detach()) for key in keys},
        "losses": {name: float(value.detach()) for name, value in sorted(losses.items())},
        "gradients": {
            name: case.fingerprint(name, p.grad) for name, p in sorted(parameters.items()) if p.grad is not None
        },
    }


def check(model, step, head):
    """Raise AssertionError if rounding could decide: near ties among proposals, or proposals that are no token.

    Args:
        model: with the projection of the encoder's output as both codes name it.
        step: runs the model.
        head: the encoder's class head; its first call is for all tokens.
    """
    seen = {}

    def keep(_, args, logits):
        seen.setdefault("all", (args[0], logits.max(-1).values))

    hook = head.register_forward_hook(keep)
    step(model)
    hook.remove()
    features, scores = seen["all"]
    best = scores.topk(case.SIZES["detrex"].queries + 1, dim=1)
    assert (-best.values.diff(dim=1)).min() > 1e-4, best.values
    norm, linear = model.transformer.enc_output_norm, model.transformer.enc_output
    excluded = norm(linear(torch.zeros(features.shape[2])))
    chosen = features.gather(1, best.indices[..., None].expand(-1, -1, features.shape[2]))
    assert ((chosen - excluded).abs().amax(-1) > 1e-3).all(), "an excluded token is chosen"


def provenance(what, commit):
    """One sentence on where numbers come from, for the json."""
    return (
        f"{what}, commit {commit}, on dino_case.py. Changed as its script says: the eps of inverse_sigmoid is 1e-5 "
        "(1e-3 there), that of IoU and GIoU 0 (1e-6 there; losses_with_eps have it). float32 on a CPU; torch "
        f"{torch.__version__}, torchvision {torchvision.__version__}, numpy {np.__version__}, detectron2 "
        f"{detectron2.__version__}"
    )


def write(file, about, numbers, with_eps):
    losses = {name: float(value.detach()) for name, value in sorted(with_eps.items())}
    content = {"provenance": about, **numbers, "losses_with_eps": losses}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{file}: {len(numbers['losses'])} losses, {file.stat().st_size} bytes")


def main(commit):
    sys.modules.update({name: StandIn(name) for name in ABSENT})
    dino, transformer = (importlib.import_module(f"{DINO}.{n}") for n in ("dino", "dino_transformer"))
    criterion = importlib.import_module("detrex.modeling.criterion.criterion")
    matcher = importlib.import_module("detrex.modeling.matcher.matcher")
    with ExitStack() as stack:
        on_cpu(stack)
        stack.enter_context(case.fixed_noise(patch.object))
        for module in (dino, transformer):
            stack.enter_context(patch.object(module, "inverse_sigmoid", partial(module.inverse_sigmoid, eps=EPS)))
        model = build()
        check(model, training_step, model.transformer.decoder.class_embed[-1])
        with_eps, _ = training_step(model)
        for module in (criterion, matcher):
            stack.enter_context(patch.object(module, "generalized_box_iou", torchvision.ops.generalized_box_iou))
        numbers = record(model)
    what = "detrex (https://github.com/IDEA-Research/detrex, Apache-2.0), projects/dino, by make_detrex_dino.py"
    write(FILE, provenance(what, commit), numbers, with_eps)


if __name__ == "__main__":
    main(sys.argv[1])
