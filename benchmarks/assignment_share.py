#!/usr/bin/env python
"""Measure the time of label assignment within a training step, for different numbers of objects.

    python benchmarks/assignment_share.py
    python benchmarks/assignment_share.py --device cuda --objects 10 100 1000 5000 --steps 20

The ResNet-50 detector of ``configs/aitod`` with random weights, one 800 × 800 image, one CPU thread. For each number of
objects the table shows the median wall time of a step (forward and backward) and of
``TinyRPN.label_and_sample_anchors`` within it; on a GPU the device is synchronised around both.
Results go to ``results/assigners``.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, make_parser, write_record
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from timing import Stopwatch, batch

from d2tiny.config import load_config
from d2tiny.modeling.proposal_generator import TinyRPN

ASSIGNERS = ("HLAAssigner", "RKAAssigner", "ATSSAssigner", "MaxIoUAssigner")


def measure(assigner: str, objects: list[int], steps: int, size: int, device: str) -> list[dict[str, Any]]:
    """Return the median times of one assigner for each number of objects."""
    cfg = load_config("aitod/faster_rcnn_r50_fpn_rfla_1x", [f"model.proposal_generator.assigner={assigner}"])
    torch.manual_seed(0)
    model = instantiate(cfg.model).to(device).train()
    rpn = model.proposal_generator
    assert isinstance(rpn, TinyRPN)
    rows = []
    for count in objects:
        data, watch = batch(count, size), Stopwatch(device)
        rpn.label_and_sample_anchors = watch.timed("label", type(rpn).label_and_sample_anchors.__get__(rpn))

        def step(data: list[dict[str, Any]] = data) -> None:
            with EventStorage(0):
                sum(model(data).values()).backward()
            model.zero_grad()

        for _ in range(steps + 1):
            watch.timed("step", step)()
        # The first call is left out.
        label_s, step_s = (statistics.median(watch.seconds[name][1:]) for name in ("label", "step"))
        rows.append({"assigner": assigner, "objects": count, "label_s": label_s, "step_s": step_s})
        print(
            f"| {assigner} | {count:,} | {1e3 * label_s:.1f} | {1e3 * step_s:.0f} | {100 * label_s / step_s:.2f} % |",
            flush=True,
        )
    return rows


def main() -> None:
    """Measure every assigner, print a table and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--assigners", nargs="+", choices=ASSIGNERS, default=list(ASSIGNERS))
    parser.add_argument("--objects", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--size", type=int, default=800, help="side of the image, px")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS / "assigners")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| assigner | objects | labelling ms | step ms | share |\n|---|---|---|---|---|")
    rows = []
    for assigner in args.assigners:
        rows += measure(assigner, args.objects, args.steps, args.size, args.device)
    device = "cpu" if args.device == "cpu" else torch.cuda.get_device_name()
    name = "step.json" if args.device == "cpu" else "step_cuda.json"
    write_record(args.results / name, device=device, size=args.size, rows=rows)


if __name__ == "__main__":
    main()
