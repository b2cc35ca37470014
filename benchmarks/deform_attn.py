#!/usr/bin/env python
"""Compare time and memory of a layer of multi-scale deformable attention, its projections included.

    python benchmarks/deform_attn.py
    python benchmarks/deform_attn.py --device cuda --dtype bfloat16

Five levels of 800² px (53,294 cells), 8 heads of 32 channels, 4 points a level; every cell as a query (encoder), and
900 queries with boxes (decoder), which sample a few cells around their references as in a trained model. Contenders:

- ``grid_sample``: tensors of weights and locations, samples by PyTorch;
- ``unfused``: tensors of weights and locations, samples by our kernel;
- ``fused``: softmax, offsets and references inside the kernel;
- ``sample_first``: as fused, and only what is sampled is projected.

On GPUs the first three are compared. Every contender runs in a process of its own, on one CPU thread or on a GPU, in
turns; the table shows the best of all calls. The floor of each is the larger of two lower bounds of its forward pass:
its multiply-adds at the measured speed of a matrix product, and inputs, weights of the layer and outputs once at the
measured speed of a copy. ``both`` is forward and backward. Results go to ``results/models``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from typing import Any

import torch
from common import RESULTS, in_own_process, make_parser, write_record
from timing import Stopwatch, peak_mb
from torch import Tensor

from d2tiny.layers import deform_attn
from d2tiny.layers.deform_attn_functions import unfused_deform_attn
from d2tiny.utils.precision import mixed_precision

SHAPES = ((200, 200), (100, 100), (50, 50), (25, 25), (13, 13))
CELLS = sum(h * w for h, w in SHAPES)
HEADS, CHANNELS, POINTS = 8, 256, 4
SAMPLES = HEADS * len(SHAPES) * POINTS
CONTENDERS = ("grid_sample", "unfused", "fused", "sample_first")


def layer(name: str, device: str) -> deform_attn.MSDeformAttn:
    """Return a layer that computes as the contender says, with offsets and weights that depend on the query."""
    if name in ("grid_sample", "unfused"):
        attend = deform_attn.reference_deform_attn if name == "grid_sample" else deform_attn.ms_deform_attn
        deform_attn.fused_deform_attn = partial(unfused_deform_attn, attend=attend)
    deform_attn.sampling_first_pays = lambda *_: name == "sample_first"
    torch.manual_seed(0)
    made = deform_attn.MSDeformAttn(embed_dim=CHANNELS, num_heads=HEADS, num_levels=len(SHAPES), num_points=POINTS)
    for linear in (made.sampling_offsets, made.attention_weights):
        torch.nn.init.normal_(linear.weight, std=CHANNELS**-0.5)
    return made.to(device)


def inputs(queries: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, references (points of the cells, or boxes) and values."""
    generator = torch.Generator().manual_seed(0)
    grids = [
        torch.stack(torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")[::-1], -1)
        for h, w in SHAPES
    ]
    reference = torch.cat([g.reshape(-1, 2) for g in grids])
    if queries != CELLS:
        reference = torch.rand(queries, 4, generator=generator) * torch.tensor([1, 1, 0.05, 0.05])
    reference = reference[None, :, None].repeat(1, 1, len(SHAPES), 1)
    query, value = (torch.randn(1, n, CHANNELS, generator=generator) for n in (queries, CELLS))
    return query.to(device), reference.to(device), value.to(device)


def measure(name: str, queries: int, args: argparse.Namespace) -> dict[str, float]:
    """Measure seconds of forward and of forward plus backward, and MB in addition to the inputs."""
    if args.device == "cpu":
        torch.set_num_threads(1)
    attention, dtype = layer(name, args.device), getattr(torch, args.dtype)
    query, reference, value = inputs(queries, args.device)
    leaves = [query.requires_grad_(), value.requires_grad_(), *attention.parameters()]

    def forward(count: int | None = None) -> Tensor:
        with mixed_precision(args.device, None if dtype is torch.float32 else dtype, "--dtype"):
            out: Tensor = attention(query[:, :count], reference[:, :count], value, SHAPES)
        return out

    torch.autograd.grad(forward(16).float().sum(), leaves)  # compiles: the compiler's memory is not counted
    before, clock = peak_mb(args.device), Stopwatch(args.device)
    for _ in range(args.calls + 1):
        with clock.measure("forward"), torch.no_grad():
            forward()
        with clock.measure("both"):
            torch.autograd.grad(forward().float().sum(), leaves)
    best = clock.best()
    return {"forward_s": best["forward"], "both_s": best["both"], "mb": round(peak_mb(args.device) - before)}


def speeds(args: argparse.Namespace) -> dict[str, float]:
    """Measure multiply-adds a second of a matrix product, and bytes a second of a copy."""
    if args.device == "cpu":
        torch.set_num_threads(1)
    side, clock = 4096 if args.device != "cpu" else 1024, Stopwatch(args.device)
    a = torch.randn(side, side, device=args.device, dtype=getattr(torch, args.dtype))
    block = torch.randn(64 << 20, device=args.device)
    for _ in range(4):
        with clock.measure("product"):
            a @ a
        with clock.measure("copy"):
            block.clone()
    best = {name: min(times[1:]) for name, times in clock.seconds.items()}
    return {"macs": side**3 / max(best["product"], 1e-6), "bytes": 2 * block.nbytes / max(best["copy"], 1e-6)}


def floors(name: str, queries: int, speed: dict[str, float]) -> dict[str, float]:
    """Return lower bounds of the forward pass: multiply-adds and bytes, and the seconds that each takes."""
    square = CHANNELS * CHANNELS
    projections = queries * CHANNELS * 3 * SAMPLES + queries * square  # offsets, logits, output
    if name == "sample_first":
        macs = projections + queries * SAMPLES * 4 * CHANNELS + queries * square
    else:
        macs = projections + queries * SAMPLES * 4 * CHANNELS // HEADS + CELLS * square
    weights = CHANNELS * 3 * SAMPLES + 2 * square
    moved = 4 * (CELLS * CHANNELS + 2 * queries * CHANNELS + weights)
    return {"macs": macs, "bytes": moved, "arithmetic_s": macs / speed["macs"], "memory_s": moved / speed["bytes"]}


def rows_of(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every contender in processes of its own, in turns."""
    options = ["--device", args.device, "--dtype", args.dtype, "--calls", str(args.calls)]
    names = CONTENDERS if args.device == "cpu" else CONTENDERS[:3]
    speed, rows = in_own_process(*options, "--one", "speeds", "0"), {}
    for _ in range(args.rounds):
        for title, queries in (("encoder", CELLS), ("decoder", 900)):
            for name in names if title == "decoder" else names[:3]:
                row = in_own_process(*options, "--one", name, str(queries))
                before = rows.get(f"{title} {name}", row)
                best = {key: min(row[key], before[key]) for key in row}
                rows[f"{title} {name}"] = {**best, "floor": floors(name, queries, speed)}
                print(f"{time.strftime('%H:%M:%S')} {title}: {name}", file=sys.stderr, flush=True)
    return {"speeds": speed, **rows}


def main() -> None:
    """Measure every contender, print a table and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of autocast")
    parser.add_argument("--calls", type=int, default=3, help="of which the best counts, after one more")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each contender; the best counts")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, queries = args.one[0], int(args.one[1])
        print(json.dumps(speeds(args) if name == "speeds" else measure(name, queries, args)))
        return
    rows = rows_of(args)
    print(
        "| queries | contender | forward ms | × | floor ms | both ms | × | extra MB |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for title_name, row in rows.items():
        if title_name == "speeds":
            continue
        title, name = title_name.split()
        first = rows[f"{title} grid_sample"]
        floor = max(row["floor"]["arithmetic_s"], row["floor"]["memory_s"])
        times = [f"{1e3 * row[k]:.1f} | {first[k] / max(row[k], 1e-9):.1f}" for k in ("forward_s", "both_s")]
        print(f"| {title} | {name} | {times[0]} | {1e3 * floor:.1f} | {times[1]} | {row['mb']:.0f} |")
    settings = {"device": args.device, "dtype": args.dtype, "calls": args.calls, "rounds": args.rounds}
    suffix = "" if args.dtype == "float32" else f"_{args.dtype}"
    path = RESULTS / "models" / f"deform_attn_{args.device}{suffix}.json"
    write_record(path, **settings, rows=rows)


if __name__ == "__main__":
    main()
