#!/usr/bin/env python
"""What label assignment costs in a training step, and whether the step grows with the number of objects.

    python benchmarks/assignment_share.py
    python benchmarks/assignment_share.py --device cuda --objects 10 100 1000 5000 --steps 20

The ResNet-50 detector of ``configs/aitod`` with random weights, one 800 × 800 image, one thread on the processor. For
each number of objects the median step (forward and backward) and the median time inside
``TinyRPN.label_and_sample_anchors``, wall time; on a GPU the device is synchronised around both.
Results go to ``results/assigners``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from timing import Stopwatch, batch

from d2tiny.config import load_config
from d2tiny.modeling.proposal_generator import TinyRPN
from d2tiny.utils.env import describe_hardware

ROOT = Path(__file__).resolve().parents[1]
ASSIGNERS = ("HLAAssigner", "RKAAssigner", "ATSSAssigner", "MaxIoUAssigner")


def measure(assigner: str, objects: list[int], steps: int, size: int, device: str) -> list[dict[str, Any]]:
    """Median times of one assigner for each number of objects."""
    cfg = load_config("aitod/faster_rcnn_r50_fpn_rfla_1x", [f"model.proposal_generator.assigner={assigner}"])
    torch.manual_seed(0)
    model = instantiate(cfg.model).to(device).train()
    rpn = model.proposal_generator
    assert isinstance(rpn, TinyRPN)
    rows = []
    for count in objects:
        data, watch = batch(count, size), Stopwatch(device)
        rpn.label_and_sample_anchors = watch.around("label", type(rpn).label_and_sample_anchors.__get__(rpn))

        def step(data: list[dict[str, Any]] = data) -> None:
            with EventStorage(0):
                sum(model(data).values()).backward()
            model.zero_grad()

        for _ in range(steps + 1):
            watch.around("step", step)()
        label_s, step_s = (
            statistics.median(watch.seconds[name][1:]) for name in ("label", "step")
        )  # without the first call
        rows.append({"assigner": assigner, "objects": count, "label_s": label_s, "step_s": step_s})
        print(
            f"| {assigner} | {count:,} | {1e3 * label_s:.1f} | {1e3 * step_s:.0f} | {100 * label_s / step_s:.2f} % |",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assigners", nargs="+", choices=ASSIGNERS, default=list(ASSIGNERS))
    parser.add_argument("--objects", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", type=int, default=800, help="side of the image, px")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "assigners")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| assigner | objects | labelling ms | step ms | share |\n|---|---|---|---|---|")
    rows = []
    for assigner in args.assigners:
        rows += measure(assigner, args.objects, args.steps, args.size, args.device)
    device = "cpu" if args.device == "cpu" else torch.cuda.get_device_name()
    record = {"command": "python benchmarks/assignment_share.py", "hardware": describe_hardware(), "device": device}
    args.results.mkdir(parents=True, exist_ok=True)
    name = "step.json" if args.device == "cpu" else "step_cuda.json"
    (args.results / name).write_text(json.dumps({**record, "size": args.size, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
