#!/usr/bin/env python
"""Time and memory of a training step beside stock Detectron2, with a breakdown of the forward pass.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --family onestage --size 640
    python benchmarks/train_step.py --device cuda --images 2 --steps 20 --amp

Models and settings: see ``contenders.py``; 100 objects in each image unless ``--objects`` says otherwise. Every
contender runs in a process of its own, on one thread of the processor or on a GPU; the best wall time of some steps.
Results go to ``results/models``.
"""

from __future__ import annotations

import argparse
from typing import Any

from contenders import arguments, build, compare


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and megabytes of one contender in this process."""
    import torch
    from detectron2.utils.events import EventStorage
    from timing import batch, peak_mb

    model, watch = build(name, args)
    model.train()
    data, kind = batch(args.objects, args.size, args.images), torch.device(args.device).type
    before = peak_mb("cpu") if kind == "cpu" else 0

    def step() -> None:
        with watch.of("forward"), EventStorage(0), torch.autocast(kind, enabled=args.amp):
            total = sum(model(data).values())
        with watch.of("backward"):
            total.backward()
        model.zero_grad()

    for _ in range(args.steps + 1):
        watch.around("step", step)()
    parts = watch.best()
    return {"step_s": parts["step"], "parts": parts, "mb": round(peak_mb(args.device) - before)}


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--amp", action="store_true", help="autocast")
    given = parser.parse_args()
    titles = {"step s": "step_s", "×": "step_s", "MB": "mb"}
    compare(given, measure, titles)
