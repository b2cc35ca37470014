#!/usr/bin/env python
"""Time and memory of inference beside stock Detectron2, in float32 and bfloat16, with a breakdown.

    python benchmarks/inference.py
    python benchmarks/inference.py --family onestage --size 640
    python benchmarks/inference.py --device cuda --images 2 --steps 20

Models and settings: see ``contenders.py``. Every contender runs in a process of its own, on one thread of the processor
or on a GPU; the best wall time of some calls. bfloat16 is autocast with channels last, as ``tools/demo.py --bf16`` does
it. Results go to ``results/models``.
"""

from __future__ import annotations

import argparse
from typing import Any

from contenders import arguments, build, compare


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and megabytes of one contender in this process."""
    import torch
    from timing import batch, peak_mb

    model, watch = build(name, args)
    model.eval()
    data, kind = batch(0, args.size, args.images), torch.device(args.device).type
    before = peak_mb("cpu") if kind == "cpu" else 0
    row: dict[str, Any] = {}
    for label, half in (("float32", False), ("bfloat16", True)):
        if half:
            model.to(memory_format=torch.channels_last)
        watch.seconds.clear()
        # One context around all calls: it keeps the weights that it has cast.
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=half):
            for _ in range(args.steps + 1):
                watch.around("inference", model)(data)
        parts = watch.best()
        row |= {f"{label}_s": parts["inference"], f"{label}_parts": parts}
        row.setdefault("mb", round(peak_mb(args.device) - before))
    row["speedup"] = round(row["float32_s"] / row["bfloat16_s"], 2)
    return row


if __name__ == "__main__":
    titles = {"float32 s": "float32_s", "×": "float32_s", "bfloat16 s": "bfloat16_s", "faster": "speedup", "MB": "mb"}
    compare(arguments(__doc__).parse_args(), measure, titles)
