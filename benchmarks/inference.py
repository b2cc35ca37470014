#!/usr/bin/env python
"""Compare time and memory of inference with stock Detectron2's, in float32 and bfloat16, with a breakdown.

    python benchmarks/inference.py
    python benchmarks/inference.py --family onestage --size 640
    python benchmarks/inference.py --device cuda --images 2 --steps 20
    python benchmarks/inference.py --normal --kinds --before ../older --contenders stock faster_rfla yolo11_m

For models and settings see ``contenders.py``. Every contender runs in a process of its own, on one CPU thread or on a
GPU; the table shows the best time of some calls. "kept" is with memory that is kept for the next map
(``d2tiny.utils.malloc``). ``--kinds`` adds what the time goes to, ``--before`` measures another checkout in turn, and
``--normal`` is a crowded scene in float32 instead of the worst case. bfloat16 means autocast and channels last, as in
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
    for label, half in (("float32", False), *((("bfloat16", True),) if not args.normal else ())):
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
        if not half and args.kinds:
            row |= _with_kept_memory(model, data, args)
    if "bfloat16_s" in row:
        row["speedup"] = round(row["float32_s"] / row["bfloat16_s"], 2)
    return row


def _with_kept_memory(model: Any, data: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the time with kept memory, and what kinds of operations it goes to."""
    import torch
    from kinds import KindClock, watch_parts

    from d2tiny.utils.malloc import keep_freed_memory

    if args.device != "cpu" or not keep_freed_memory():
        return {}
    clock = KindClock()
    watch_parts(clock, model)
    with torch.no_grad():
        kinds = clock.measure(lambda: model(data), args.steps)
    return {"kept_s": kinds["total"] / 1e3, "kinds_ms": kinds}


if __name__ == "__main__":
    parser = model_parser(__doc__)
    parser.add_argument("--kinds", action="store_true", help="what the time goes to, and with kept memory")
    titles = {"float32 s": "float32_s", "×": "float32_s", "bfloat16 s": "bfloat16_s", "faster": "speedup", "MB": "mb"}
    compare(parser.parse_args(), measure, {"before s": "before_float32_s", **titles, "kept s": "kept_s"})
