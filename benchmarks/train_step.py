#!/usr/bin/env python
"""Compare time and memory of a training step with stock Detectron2's, with a breakdown of the forward pass.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --family onestage --size 640
    python benchmarks/train_step.py --family quick --size 160 --images 8 --objects 20 --steps 5 --amp --channels-last
    python benchmarks/train_step.py --kinds --before ../older --contenders stock faster_efpnbs yolo11_m
    python benchmarks/train_step.py --device cuda --images 2 --steps 20 --amp

For models and settings see ``contenders.py``. Each image has 100 objects unless ``--objects`` says otherwise. Every
contender runs in a process of its own, on one CPU thread or on a GPU; the table shows the best time of some steps.
Results go to ``results/models``.
"""

from __future__ import annotations

import argparse
from typing import Any

from contenders import build, compare, model_parser


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure seconds and MB of one contender in this process."""
    import torch
    from detectron2.utils.events import EventStorage
    from timing import batch, peak_mb

    from d2tiny.utils.precision import mixed_precision

    model, watch = build(name, args)
    model.train()
    data, dtype = batch(args.objects, args.size, args.images), torch.bfloat16 if args.amp else None
    before = peak_mb("cpu") if args.device == "cpu" else 0

    def step() -> None:
        with watch.measure("forward"), EventStorage(0), mixed_precision(args.device, dtype, "--amp"):
            total = sum(model(data).values())
        with watch.measure("backward"):
            total.backward()
        model.zero_grad()

    for _ in range(args.steps + 1):
        watch.timed("step", step)()
    parts = watch.best()
    row = {"step_s": parts["step"], "parts": parts, "mb": round(peak_mb(args.device) - before)}
    return row | _with_kept_memory(model, step, args) if args.kinds and args.device == "cpu" else row


def _with_kept_memory(model: Any, step: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a step with memory that is kept for the next map, and what kinds of operations it goes to."""
    from kinds import KindClock, watch_parts

    from d2tiny.utils.malloc import keep_freed_memory

    if not keep_freed_memory():
        return {}
    clock = KindClock()
    watch_parts(clock, model)
    kinds = clock.measure(step, args.steps)
    return {"kept_s": kinds["total"] / 1e3, "kinds_ms": kinds}


if __name__ == "__main__":
    parser = model_parser(__doc__)
    parser.add_argument("--amp", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--kinds", action="store_true", help="what the time goes to, and with kept memory")
    args = parser.parse_args()
    titles = {"before s": "before_step_s", "step s": "step_s", "×": "step_s", "MB": "mb", "kept s": "kept_s"}
    compare(args, measure, titles)
