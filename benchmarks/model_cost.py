#!/usr/bin/env python
"""Time and memory of a training step and of inference, beside stock Detectron2, with a breakdown.

    python benchmarks/model_cost.py
    python benchmarks/model_cost.py --device cuda --images 2 --steps 20 --amp

ResNet-50 with random weights, 800 px, 100 objects; 3,000 proposals and 3,000 detections everywhere. "Stock" is
Detectron2's own RPN and box head on the same backbone and settings. Every contender runs in a process of its own, on
one thread of the processor or on a GPU; the best wall time of some calls. Results go to ``results/models``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# name -> config, and whether Detectron2's own RPN and heads take the place of ours
CONTENDERS = {
    "stock": ("aitod/faster_rcnn_r50_fpn_maxiou_1x", True),
    "faster": ("aitod/faster_rcnn_r50_fpn_maxiou_1x", False),
    "faster_rfla": ("aitod/faster_rcnn_r50_fpn_rfla_1x", False),
    "faster_efpnbs": ("aitod/faster_rcnn_r50_efpnbs_rfla_dcloss_1x", False),
    "faster_light": ("aitod/faster_rcnn_r50_efpnbslight_rfla_dcloss_1x", False),
    "cascade": ("aitod/cascade_rcnn_r50_fpn_rfla_1x", False),
    "detectors": ("aitod/detectors_r50_efpnbs_rfla_dcloss_1x", False),
}
# what is timed inside a model: attribute path, method
PARTS = {
    "backbone": ("backbone", "forward"),
    "rpn head": ("proposal_generator.rpn_head", "forward"),
    "label anchors": ("proposal_generator", "label_and_sample_anchors"),
    "rpn losses": ("proposal_generator", "losses"),
    "proposals": ("proposal_generator", "predict_proposals"),
    "label proposals": ("roi_heads", "label_and_sample_proposals"),
    "box head": ("roi_heads", "_forward_box"),
}


def stock(cfg: Any) -> Any:
    """Detectron2's own RPN and heads with the settings of a config of ours."""
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


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Times of one contender in this process."""
    import torch
    from detectron2.config import instantiate
    from detectron2.utils.events import EventStorage
    from timing import Stopwatch, batch, peak_mb

    from d2tiny.config import load_config

    if args.device == "cpu":
        torch.set_num_threads(1)
    config, plain = CONTENDERS[name]
    cfg = load_config(config).model
    cfg.proposal_generator.nms_thresh = 1.0  # suppresses nothing, so that random weights too give 3,000 proposals
    torch.manual_seed(0)
    model: Any = instantiate(stock(cfg) if plain else cfg).to(args.device)
    watch, data = Stopwatch(args.device), batch(100, args.size, args.images)
    for part, (path, method) in PARTS.items():
        module = model.get_submodule(path)
        setattr(module, method, watch.around(part, getattr(module, method)))

    def step() -> None:
        with watch.of("forward"), EventStorage(0), torch.autocast(torch.device(args.device).type, enabled=args.amp):
            total = sum(model(data).values())
        with watch.of("backward"):
            total.backward()
        model.zero_grad()

    row: dict[str, Any] = {"contender": name, "parts": {}}
    before = peak_mb("cpu")
    for training in (False, True):
        model.train(training)
        watch.seconds.clear()
        for _ in range(args.steps + 1):
            if training:
                watch.around("step", step)()
            else:
                with (
                    torch.no_grad(),
                    watch.of("inference"),
                    torch.autocast(torch.device(args.device).type, enabled=args.amp, dtype=torch.bfloat16),
                ):
                    model(data)
        best = {part: round(min(times[1:]), 4) for part, times in watch.seconds.items()}
        row["parts"]["training" if training else "inference"] = best
        row["training_mb" if training else "inference_mb"] = round(
            peak_mb(args.device) - (before if args.device == "cpu" else 0)
        )
    return row


def main() -> None:
    """Run the contenders one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=tuple(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", type=int, default=800)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="autocast (bfloat16 for inference)")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "models")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.contenders[0], args)))
        return
    from d2tiny.utils.env import describe_hardware

    rows: list[dict[str, Any]] = []
    print("| | inference s | × | training step s | × | inference MB | training MB |\n|---|---|---|---|---|---|---|")
    for name in args.contenders:
        options = ["--one", "--contenders", name, "--device", args.device, "--steps", str(args.steps)]
        options += ["--size", str(args.size), "--images", str(args.images), *(["--amp"] if args.amp else [])]
        done = subprocess.run(
            [sys.executable, __file__, *options],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        times = [
            [r["parts"][mode][key] for r in (rows[-1], rows[0])]
            for mode, key in (("inference",) * 2, ("training", "step"))
        ]
        cells = " | ".join(f"{mine:.2f} | {mine / first:.2f}" for mine, first in times)
        print(f"| {name} | {cells} | {rows[-1]['inference_mb']} | {rows[-1]['training_mb']} |", flush=True)
    args.results.mkdir(parents=True, exist_ok=True)
    settings = {k: v for k, v in vars(args).items() if k in ("steps", "size", "images", "device", "amp")}
    record = {"command": "python benchmarks/model_cost.py", "hardware": describe_hardware(), **settings, "rows": rows}
    file = "cost_" + args.device + ("_amp" if args.amp else "") + ".json"
    (args.results / file).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
