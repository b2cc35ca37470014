#!/usr/bin/env python
"""Compare time and memory of inference with stock Detectron2's, in float32 and bfloat16, with a breakdown.

    python benchmarks/inference.py
    python benchmarks/inference.py --family onestage --size 640
    python benchmarks/inference.py --device cuda --images 2 --steps 20

For models and settings see ``contenders.py``. Every contender runs in a process of its own, on one CPU thread or on a
GPU; the table shows the best time of some calls. bfloat16 means autocast and channels last, as in
``tools/demo.py --bf16``. Results go to ``results/models``.
"""

from __future__ import annotations

import argparse
from typing import Any

from contenders import build, compare, model_parser


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure seconds and MB of one contender in this process."""
    import torch
    from timing import batch, peak_mb

    from d2tiny.utils.precision import mixed_precision

    model, watch = build(name, args)
    model.eval()
    data = batch(0, args.size, args.images)
    before = peak_mb("cpu") if args.device == "cpu" else 0
    row: dict[str, Any] = {}
    for label, half in (("float32", False), ("bfloat16", True)):
        if half:
            model.to(memory_format=torch.channels_last)
        watch.seconds.clear()
        # One context around all calls, because autocast caches cast weights within a context.
        with torch.no_grad(), mixed_precision(args.device, torch.bfloat16 if half else None, label):
            for _ in range(args.steps + 1):
                watch.timed("inference", model)(data)
        parts = watch.best()
        row |= {f"{label}_s": parts["inference"], f"{label}_parts": parts}
        row.setdefault("mb", round(peak_mb(args.device) - before))
    row["speedup"] = round(row["float32_s"] / row["bfloat16_s"], 2)
    return row


if __name__ == "__main__":
    titles = {"float32 s": "float32_s", "×": "float32_s", "bfloat16 s": "bfloat16_s", "faster": "speedup", "MB": "mb"}
    compare(model_parser(__doc__).parse_args(), measure, titles)
