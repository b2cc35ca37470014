#!/usr/bin/env python
"""Measure what an encoder saves that reads only where objects may be, by the number of objects in the image.

    python benchmarks/sparse_encoder.py
    python benchmarks/sparse_encoder.py --size 512 --objects 0 100

Random weights find no objects: the density head runs, and its map is then replaced by the true one of so many objects
of 12 px. Plain DINO, ScaleBridge-Det and their sparse forms run in processes of their own, on one thread; times are
those of the processor, the best of some calls after the first. Beside each time stands what its matrix products need at
least: the multiply-adds over those that a large matrix product reaches in the same process.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from common import RESULTS, in_own_process, make_parser, write_record

CONFIGS = {
    "dino": "aitod/dino_r50_5scale_12e",
    "dino, sparse": "aitod/dino_r50_5scale_sparse_12e",
    "scalebridge": "aitod/scalebridge_r50_5scale_12e",
    "scalebridge, sparse": "aitod/scalebridge_r50_5scale_sparse_12e",
}
PARTS = {
    "backbone": ("backbone", "forward"),
    "REM": ("routing", "forward"),
    "density": ("density", "predict_density"),
    "encoder": ("encoder", "forward"),
    "proposals": ("selection", "propose"),
    "decoder": ("decoder", "forward"),
}


def _products_per_second() -> float:
    """Return the multiply-adds per second of a large matrix product."""
    import torch
    from timing import Stopwatch

    watch, a, b = Stopwatch("cpu"), torch.randn(4096, 1024), torch.randn(1024, 1024)
    for _ in range(6):
        watch.timed("product", torch.mm)(a, b)
    return 4096 * 1024 * 1024 / watch.best()["product"]


def measure(name: str, objects: int, size: int, calls: int, overrides: list[str]) -> dict[str, Any]:
    """Measure one model on an image with so many objects, in this process."""
    import torch
    from detectron2.config import instantiate
    from timing import Stopwatch, batch
    from torch.utils.flop_counter import FlopCounterMode

    from d2tiny.config import load_config
    from d2tiny.modeling.transformer import density_target

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: Any = instantiate(load_config(CONFIGS[name], overrides).model).eval()
    data = batch(objects, size)
    boxes = data[0]["instances"].gt_boxes
    cells = torch.cat((boxes.get_centers(), boxes.tensor[:, 2:] - boxes.tensor[:, :2]), dim=1) / 4
    if model.density is not None:
        predict = model.density.predict_density
        model.density.predict_density = lambda *args: predict(*args) * 0 + density_target(cells, (size // 4, size // 4))
    seen: dict[str, float] = {}
    if (sparsity := getattr(model.encoder, "sparsity", None)) is not None:
        choose = sparsity.choose

        def chosen(*args: Any) -> Any:
            updated = choose(*args)
            seen["tokens"] = float(updated.float().mean())
            return updated

        sparsity.choose = chosen
    watch = Stopwatch("cpu")
    with torch.no_grad():
        # Products of oneDNN's own operators, which inference uses, would not be counted.
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(model, display=False) as counter:
            model(data)
        counts = counter.get_flop_counts()
        for part, (attribute, method) in PARTS.items():
            if (owner := getattr(model, attribute)) is not None:
                setattr(owner, method, watch.timed(part, getattr(owner, method)))
        for _ in range(calls + 1):
            watch.timed("model", model)(data)
    speed, kind = 2 * _products_per_second(), type(model).__name__
    counted = {part: f"{kind}.{attribute}" for part, (attribute, _) in PARTS.items()}
    counted |= {"model": kind, "density": f"{kind}.density.head", "proposals": f"{kind}.selection.enc_output"}
    floors = {part: round(sum(counts[key].values()) / speed, 3) for part, key in counted.items() if key in counts}
    return {"seconds": watch.best(), "floor_seconds": floors, **seen}


def main() -> None:
    """Measure all, print a table and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--objects", type=int, nargs="+", default=[0, 100, 500, 2000])
    parser.add_argument("--size", type=int, default=800, help="px of a side")
    parser.add_argument("--calls", type=int, default=2)
    parser.add_argument("--models", nargs="+", default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument("--output", default="transformers/sparse_encoder.json", help="file in results/")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="overrides of the sparse configs")
    args = parser.parse_args()
    if args.one:
        name, objects = args.one
        print(json.dumps(measure(name, int(objects), args.size, args.calls, args.overrides)))
        return
    rows: list[dict[str, Any]] = []
    for name in args.models:
        sparse = name.endswith("sparse")
        # plain DINO costs the same for any image; with a density the number of queries follows the objects
        for objects in args.objects[:1] if name == "dino" else args.objects:
            overrides = args.overrides if sparse else []
            options = ["--size", str(args.size), "--calls", str(args.calls)]
            row = in_own_process("--one", name, str(objects), *options, *overrides)
            rows.append({"model": name, "objects": "any" if name == "dino" else objects, **row})
            _print(rows[-1], rows)
    write_record(
        RESULTS / args.output,
        size=args.size,
        rows=rows,
    )


def _print(row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Print a row, with ratios to the dense model of its kind."""
    same = [r for r in rows if r["model"] == row["model"].split(",")[0] and r["objects"] in ("any", row["objects"])]
    dense = same[0] if same else row
    parts = " ".join(f"{k} {v:.2f} ({row['floor_seconds'].get(k, 0):.2f})" for k, v in row["seconds"].items())
    ratios = "  ".join(f"{k} × {row['seconds'][k] / dense['seconds'][k]:.2f}" for k in ("encoder", "model"))
    print(f"{row['model']}, {row['objects']} objects: tokens {row.get('tokens', 1):.1%}, {ratios}; {parts}", flush=True)


if __name__ == "__main__":
    main()
