"""Models, timed parts, options and result tables of ``train_step.py`` and ``inference.py``.

There are five families. ``rcnn``: ResNet-50 with random weights, 3,000 proposals and up to 3,000 detections; "stock"
is Detectron2's own RPN and box head with the same backbone and settings. ``onestage``: YOLO detectors with their
largest number of detections, and torchvision's SSD300 (35 GMAC at 300², as many as YOLO11m at 640²). ``transformer``:
DINO and ScaleBridge-Det with a ResNet-50; the first is DINO with PyTorch's ``grid_sample`` as deformable attention, as
in implementations without a kernel. With random weights the density map selects more queries than after training.
``quick``: the small Faster R-CNN with RFLA on both backbones for processors. ``lite0``: the detectors that
``results/hituav`` trains, on EfficientNet-Lite0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from common import RESULTS, in_own_process, make_parser, write_record

# Name -> config; "stock" replaces our RPN and heads by Detectron2's.
RCNN = {
    "stock": "aitod/faster_rcnn_r50_fpn_maxiou_1x",
    "faster": "aitod/faster_rcnn_r50_fpn_maxiou_1x",
    "faster_rfla": "aitod/faster_rcnn_r50_fpn_rfla_1x",
    "faster_efpnbs": "aitod/faster_rcnn_r50_efpnbs_rfla_dcloss_1x",
    "faster_light": "aitod/faster_rcnn_r50_efpnbslight_rfla_dcloss_1x",
    "cascade": "aitod/cascade_rcnn_r50_fpn_rfla_1x",
    "detectors": "aitod/detectors_r50_efpnbs_rfla_dcloss_1x",
}
ONE_STAGE = {
    "ssd300": "",  # torchvision's
    "yolox_s": "aitod/yolox_s_300e",
    "yolox_m": "aitod/yolox_m_300e",
    "yolox_m_sarl_sal": "aitod/yolox_m_sarl_sal_300e",
    "yolov5_m": "aitod/yolov5_m_300e",
    "yolo11_n": "aitod/yolo11_n_600e",
    "yolo11_m": "aitod/yolo11_m_600e",
    "yolo11_m_p2": "aitod/yolo11_m_p2_600e",
    "rs_tinynet_m": "aitod/rs_tinynet_m_600e",
}
TRANSFORMERS = {
    "dino_5scale_grid_sample": "aitod/dino_r50_5scale_12e",
    "dino_5scale": "aitod/dino_r50_5scale_12e",
    "dino_5scale_dgq": "aitod/dino_r50_5scale_dgq_12e",
    "dino_5scale_rem": "aitod/dino_r50_5scale_rem_12e",
    "scalebridge_5scale": "aitod/scalebridge_r50_5scale_12e",
    "scalebridge_5scale_checkpointing": "aitod/scalebridge_r50_5scale_12e",
    "dino_4scale": "aitod/dino_r50_4scale_12e",
}
QUICK = {"r18": "quick/faster_rcnn_r18_fpn_rfla", "lite0": "quick/faster_rcnn_lite0_fpn_rfla"}
LITE0 = {
    "lite0_maxiou": "hituav/faster_rcnn_lite0_fpn_maxiou",
    "lite0_rfla": "hituav/faster_rcnn_lite0_fpn_rfla",
    "lite0_efpnbs": "hituav/faster_rcnn_lite0_efpnbs_rfla",
    "lite0_sarl": "hituav/faster_rcnn_lite0_sarl_rfla",
    "lite0_cascade": "hituav/cascade_rcnn_lite0_fpn_rfla",
    "lite0_fcos_p2": "hituav/fcos_lite0_p2",
    "lite0_yolox_s": "hituav/yolox_lite0_s",
    "lite0_yolo11_n_p2": "hituav/yolo11_lite0_n_p2",
    "lite0_dino": "hituav/dino_lite0",
    "lite0_scalebridge": "hituav/scalebridge_lite0",
}
FAMILIES = {"rcnn": RCNN, "onestage": ONE_STAGE, "transformer": TRANSFORMERS, "quick": QUICK, "lite0": LITE0}
CONTENDERS = RCNN | ONE_STAGE | TRANSFORMERS | QUICK | LITE0
# Timed parts of a model: attribute path, method.
PARTS = {
    "backbone": ("backbone", "forward"),
    "neck": ("backbone.neck", "forward"),  # within backbone
    "rpn head": ("proposal_generator.rpn_head", "forward"),
    "label anchors": ("proposal_generator", "label_and_sample_anchors"),
    "rpn losses": ("proposal_generator", "losses"),
    "proposals": ("proposal_generator", "predict_proposals"),
    "label proposals": ("roi_heads", "label_and_sample_proposals"),
    "box head": ("roi_heads", "_forward_box"),
    # Within the box head, and in training only: at test time ours works in chunks.
    "pooling": ("roi_heads.box_pooler", "forward"),
    "dense head": ("head", "forward"),
    "assignment": ("head", "targets"),
    "dense losses": ("head", "losses"),
    "decode": ("head", "decode"),
    "auxiliary": ("auxiliary", "forward"),
    "routing": ("routing", "forward"),
    "encoder": ("encoder", "forward"),
    "proposals of tokens": ("selection", "propose"),
    "density": ("density", "predict_density"),
    "decoder": ("decoder", "forward"),
    "losses of queries": ("criterion", "decoder_losses"),
}


def stock(cfg: Any) -> Any:
    """Replace RPN and heads of a config by Detectron2's own, with the same settings."""
    from detectron2.config import LazyCall as L
    from detectron2.modeling.matcher import Matcher
    from detectron2.modeling.proposal_generator import RPN
    from detectron2.modeling.roi_heads import FastRCNNOutputLayers, StandardROIHeads

    rpn, roi = dict(cfg.proposal_generator), dict(cfg.roi_heads)
    for key in ("_target_", "assigner", "box_loss"):
        del rpn[key]
    matcher = L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True)
    cfg.proposal_generator = L(RPN)(**rpn, anchor_matcher=matcher)
    predictor = dict(roi.pop("box_predictor"))
    for key in ("_target_", "box_loss", "num_classes"):
        del predictor[key]
    del roi["_target_"]
    classes = roi["num_classes"]
    cfg.roi_heads = L(StandardROIHeads)(**roi, box_predictor=L(FastRCNNOutputLayers)(**predictor, num_classes=classes))
    return cfg


def ssd300() -> Any:
    """Return torchvision's SSD300 with Detectron2's input format; it resizes every image to 300 px."""
    from torch import nn
    from torchvision.models.detection import ssd300_vgg16

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=9)

        def forward(self, batch: list[dict[str, Any]]) -> Any:
            images = [item["image"].float().div(255).to(next(self.parameters()).device) for item in batch]
            if not self.training:
                return self.backbone(images)
            targets = [
                {"boxes": i["instances"].gt_boxes.tensor, "labels": i["instances"].gt_classes + 1} for i in batch
            ]
            return self.backbone(images, targets)

    return Wrapped()


def build(name: str, args: argparse.Namespace) -> tuple[Any, Any]:
    """Return the model of a contender and a stopwatch that measures its parts."""
    import torch
    from detectron2.config import instantiate
    from timing import Stopwatch

    from d2tiny.config import load_config
    from d2tiny.layers import deform_attn
    from d2tiny.layers.deform_attn_functions import unfused_deform_attn

    if args.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    if name == "ssd300":
        model: Any = ssd300().to(args.device)
    else:
        checkpointed = ("encoder", "decoder", "routing") if name.endswith("checkpointing") else ()
        cfg = load_config(CONTENDERS[name], [f"model.{part}.checkpointing=true" for part in checkpointed]).model
        # NMS suppresses nothing, so that random weights give all proposals and detections.
        if args.normal:
            pass
        elif "proposal_generator" in cfg:
            cfg.proposal_generator.nms_thresh = 1.0
        elif "head" in cfg:
            cfg.head.nms_thresh, cfg.head.score_thresh = 1.0, 0.0
        elif name.endswith("grid_sample"):
            reference = partial(unfused_deform_attn, attend=deform_attn.reference_deform_attn)
            deform_attn.fused_deform_attn = reference
            deform_attn.sampling_first_pays = lambda *_: False
        model = instantiate(stock(cfg) if name == "stock" else cfg).to(args.device)
        if name == "stock":  # PyTorch's own layers
            for part in model.modules():
                part.__dict__.pop("forward", None)
    if args.normal:
        _settle(model, args)
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    watch = Stopwatch(args.device)
    if args.compile:
        model.backbone.compile()
    for part, (path, method) in PARTS.items():
        owner = model
        for attribute in path.split("."):
            owner = getattr(owner, attribute, None)
        if owner is not None and not (args.compile and path.startswith("backbone")):  # a timer would split its graph
            setattr(owner, method, watch.timed(part, getattr(owner, method)))
    return model, watch


def _settle(model: Any, args: argparse.Namespace) -> None:
    """Let about as many candidates pass the threshold as a trained detector has in a crowded scene."""
    import torch
    from timing import batch
    from torch import nn

    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    model.eval()
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        found = model.backbone(model.preprocess_image(batch(0, args.size)).tensor) if hasattr(model, "head") else {}
        model.eval()
        found_heads = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
        for predictor in (
            found_heads if isinstance(found_heads, nn.ModuleList) else [found_heads] if found_heads else []
        ):
            predictor.cls_score.bias[-1] += 2
        if hasattr(model, "head"):
            logits, _, quality = model.head([found[name] for name in model.head_in_features]).concatenated()
            scores = model.head.scores(logits, quality).flatten()
            model.head.score_thresh = float(scores.topk(3000).values[-1])


def model_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser with the options of both benchmarks."""
    parser = make_parser(description)
    parser.add_argument("--family", choices=tuple(FAMILIES), default="rcnn")
    parser.add_argument("--contenders", nargs="+", choices=tuple(CONTENDERS), help="default: those of the family")
    parser.add_argument("--steps", type=int, default=3, help="calls of which the best counts, after one more")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each contender; the best counts")
    parser.add_argument("--size", type=int, default=800, help="px of a side")
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--objects", type=int, default=100, help="in each image of a training step")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile of backbone and neck")
    parser.add_argument("--channels-last", action="store_true", help="the memory layout that bfloat16 prefers")
    parser.add_argument("--normal", action="store_true", help="NMS as configured, and 3,000 candidates")
    parser.add_argument("--before", type=Path, help="checkout of an earlier d2tiny, measured in turn with this one")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def _tell_of_slow_precision(args: argparse.Namespace) -> None:
    """Say it here, because what the contenders' processes say is not shown."""
    import torch

    from d2tiny.utils.precision import warn_of_slow_precision

    if getattr(args, "amp", False):
        warn_of_slow_precision(args.device, torch.bfloat16, "--amp")


def compare(args: argparse.Namespace, measure: Callable[..., dict[str, Any]], columns: dict[str, str]) -> None:
    """Measure every contender in processes of its own, print a table and write the record.

    Args:
        args: arguments of :func:`model_parser`.
        measure: function of contender and args that returns seconds and MB by name, in sub-dicts for parts.
        columns: title → key of the row; a column whose title ends in × is relative to the first contender.
    """
    if args.one:
        print(json.dumps(measure(args.one, args)))
        return
    _tell_of_slow_precision(args)
    rows: dict[str, dict[str, Any]] = {}
    args.contenders = args.contenders or list(FAMILIES[args.family])
    for turn in range(args.rounds):
        for name in args.contenders:
            flags = ("amp", "compile", "channels_last", "normal", "kinds")
            extra = [f"--{key.replace('_', '-')}" for key in flags if getattr(args, key, False)]
            options = ["--one", name, "--device", args.device, "--steps", str(args.steps), "--size", str(args.size)]
            sizes = ["--images", str(args.images), "--objects", str(args.objects)]
            row = in_own_process(*options, *sizes, *extra)
            if args.before is not None:
                older = {"PYTHONPATH": str(args.before.resolve())}
                without = [flag for flag in extra if flag != "--kinds"]
                row["before"] = in_own_process(*options, *sizes, *without, environment=older)
                row |= {f"before_{key}": value for key, value in row["before"].items() if key.endswith("_s")}
            rows[name] = _best(rows[name], row) if name in rows else row
            print(f"round {turn + 1}: {name}", file=sys.stderr, flush=True)
    print("| contender | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    first = rows[args.contenders[0]]
    for name, row in rows.items():
        cells = [
            ""
            if key not in row
            else f"{row[key] / first[key]:.2f}"
            if title.endswith("×")
            else f"{row[key]:.{0 if key.endswith('mb') else 2}f}"
            for title, key in columns.items()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    settings = {k: v for k, v in vars(args).items() if k not in ("one", "contenders", "before")}
    suffix = "".join(f"_{key}" for key in ("amp", "compile", "normal", "kinds") if settings.get(key))
    if args.family != "rcnn":
        suffix = f"_{args.family}_{args.size}{suffix}" + (f"_{args.objects}" if args.objects != 100 else "")
    path = RESULTS / "models" / f"{Path(sys.argv[0]).stem}_{args.device}{suffix}.json"
    write_record(path, **settings, rows=rows)


def _best(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return the smaller value of two rows for each key."""
    return {
        key: _best(one[key], other[key]) if isinstance(one[key], dict) else min(one[key], other[key]) for key in one
    }
