#!/usr/bin/env python
"""Compare time and memory of multi-scale deformable attention: our kernel and grid_sample.

    python benchmarks/deform_attn.py
    python benchmarks/deform_attn.py --device cuda --dtype bfloat16

Five levels of 800² px (53,294 cells), 8 heads of 32 channels, 4 points a level; every cell as a query (encoder), and
900 queries (decoder), which sample near their reference points as in a trained model. Every contender runs in a process
of its own, on one CPU thread or on a GPU; the table shows the best of some calls. ``floor`` is the larger of two lower
bounds: the multiply-adds at the measured speed of a matrix product, and reading inputs and writing outputs at the
measured speed of a copy. Results go to ``results/models``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import torch
from common import RESULTS, in_own_process, make_parser, write_record
from timing import Stopwatch, peak_mb
from torch import Tensor

from d2tiny.layers.deform_attn import ms_deform_attn, reference_deform_attn

SHAPES = ((200, 200), (100, 100), (50, 50), (25, 25), (13, 13))
HEADS, DEPTH, POINTS = 8, 32, 4
FUNCTIONS = {"grid_sample": reference_deform_attn, "d2tiny": ms_deform_attn}


def inputs(queries: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, sampling locations (a few cells around the query's reference point) and attention weights."""
    generator = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in SHAPES)
    grids = [
        torch.stack(torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")[::-1], -1)
        for h, w in SHAPES
    ]
    centres = torch.cat([g.reshape(-1, 2) for g in grids])
    if queries != cells:
        centres = torch.rand(queries, 2, generator=generator)
    sides = torch.tensor([(w, h) for h, w in SHAPES]).float()
    shape = (1, queries, HEADS, len(SHAPES), POINTS)
    shift = torch.randn(*shape, 2, generator=generator) * 2 / sides[:, None]
    locations = centres[None, :, None, None, None] + shift
    weights = torch.rand(shape, generator=generator).flatten(3).softmax(-1).view(shape)
    value = torch.randn(1, cells, HEADS, DEPTH, generator=generator)
    return value.to(device, dtype), locations.to(device), weights.to(device)


def measure(name: str, queries: int, args: argparse.Namespace) -> dict[str, float]:
    """Measure seconds of forward and of forward plus backward, and MB in addition to the inputs."""
    if args.device == "cpu":
        torch.set_num_threads(1)
    leaves = [x.requires_grad_() for x in inputs(queries, args.device, getattr(torch, args.dtype))]
    few = [x.detach()[:, : 16 if i else None].requires_grad_() for i, x in enumerate(leaves)]
    FUNCTIONS[name](few[0], SHAPES, *few[1:]).sum().backward()  # compiles, so that the compiler's memory is not counted
    few.clear()
    value, locations, weights = leaves
    upstream = torch.ones(1, queries, HEADS * DEPTH, device=args.device, dtype=value.dtype)
    before, clock = peak_mb(args.device), Stopwatch(args.device)
    for _ in range(args.calls + 1):
        with clock.measure("forward"), torch.no_grad():
            FUNCTIONS[name](value, SHAPES, locations, weights)
        with clock.measure("both"):
            out = FUNCTIONS[name](value, SHAPES, locations, weights)
            gradients = torch.autograd.grad(out, leaves, upstream)
        del out, gradients
    best = clock.best()
    return {"forward_s": best["forward"], "both_s": best["both"], "mb": round(peak_mb(args.device) - before)}


def floors(queries: int, args: argparse.Namespace) -> dict[str, float]:
    """Measure lower bounds of the forward pass in seconds: by arithmetic alone and by memory traffic alone."""
    if args.device == "cpu":
        torch.set_num_threads(1)
    side, clock = 4096 if args.device != "cpu" else 1024, Stopwatch(args.device)
    a = torch.randn(side, side, device=args.device)
    block = torch.randn(64 << 20, device=args.device)
    for _ in range(4):
        with clock.measure("product"):
            a @ a
        with clock.measure("copy"):
            block.clone()
    best = clock.best()
    locations = queries * HEADS * len(SHAPES) * POINTS
    peak, speed = side**3 / max(best["product"], 1e-6), 2 * block.nbytes / max(best["copy"], 1e-6)
    size = torch.finfo(getattr(torch, args.dtype)).bits // 8
    moved = (sum(h * w for h, w in SHAPES) + queries) * HEADS * DEPTH * size + locations * 3 * 4
    return {"arithmetic_s": locations * 4 * DEPTH / peak, "memory_s": moved / speed}


def main() -> None:
    """Measure every contender in a process of its own, print a table and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--calls", type=int, default=3, help="of which the best counts, after one more")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, queries = args.one[0], int(args.one[1])
        print(json.dumps(floors(queries, args) if name == "floor" else measure(name, queries, args)))
        return
    rows: dict[str, Any] = {}
    cells = sum(h * w for h, w in SHAPES)
    for title, queries in (("encoder", cells), ("decoder", 900)):
        for name in (*FUNCTIONS, "floor"):
            options = ["--device", args.device, "--dtype", args.dtype, "--calls", str(args.calls)]
            rows[f"{title} {name}"] = in_own_process(*options, "--one", name, str(queries))
            print(f"{time.strftime('%H:%M:%S')} {title}: {name}", file=sys.stderr, flush=True)
    print("| queries | contender | forward ms | × | both ms | × | extra MB | × |\n|---|---|---|---|---|---|---|---|")
    for title in ("encoder", "decoder"):
        first = rows[f"{title} grid_sample"]
        for name in FUNCTIONS:
            row = rows[f"{title} {name}"]
            cells_of = [
                f"{row[key] * scale:.{digits}f} | {first[key] / max(row[key], 1e-9):.1f}"
                for key, scale, digits in (("forward_s", 1e3, 1), ("both_s", 1e3, 1), ("mb", 1, 0))
            ]
            print(f"| {title} | {name} | " + " | ".join(cells_of) + " |")
        floor = rows[f"{title} floor"]
        print(f"| {title} | floor | {1e3 * max(floor.values()):.1f} | | | | | |")
    settings = {"device": args.device, "dtype": args.dtype, "calls": args.calls}
    suffix = "" if args.dtype == "float32" else f"_{args.dtype}"
    path = RESULTS / "models" / f"deform_attn_{args.device}{suffix}.json"
    write_record(path, command="python benchmarks/deform_attn.py", **settings, rows=rows)


if __name__ == "__main__":
    main()
