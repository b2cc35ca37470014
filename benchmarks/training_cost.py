#!/usr/bin/env python
"""Measure what a training step of each row of a table costs: seconds an image, and memory.

    DETECTRON2_DATASETS=/data python benchmarks/training_cost.py --table hituav --amp
    python benchmarks/quick_table.py --table hituav --table-only      # puts them into results/hituav/details.md

Forward and backward pass on the first batch of a row's own training, with its crops, its batch size and its true
objects, from the pretrained weights of its backbone if it has any. Each row runs in a process of its own, on one CPU
thread; the best of some steps after the first counts. Memory is the peak above that of the built model. Results go to
``results/TABLE/training_cost.json``. Rows of earlier calls stay there if the base row, which is always measured again,
takes as long as it did then: machines of one name differ threefold.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from common import (
    RESULTS,
    ContenderError,
    first_batches,
    in_own_process,
    kept_entries,
    make_parser,
    write_record,
)
from quick_table import BASES, TABLES, TRAINING_COST, Row

SPREAD = 0.1  # by which one machine's times may differ


def measure(row: Row, steps: int, amp: bool) -> dict[str, float]:
    """Measure the training step of one row, in this process."""
    import torch
    from detectron2.config import instantiate
    from detectron2.utils.events import EventStorage
    from timing import Stopwatch, peak_mb

    from d2tiny.config import load_config
    from d2tiny.engine.checkpoint import TinyCheckpointer
    from d2tiny.utils.precision import mixed_precision

    cfg = load_config(row.config_name, ["train.seed=0", *row.overrides])
    layout = torch.channels_last if cfg.train.channels_last else torch.preserve_format
    torch.manual_seed(0)
    batch = next(first_batches(cfg, 1))
    model, watch = instantiate(cfg.model), Stopwatch("cpu")
    if cfg.train.init_checkpoint:
        TinyCheckpointer(model).load(cfg.train.init_checkpoint, checkpointables=[])
    model.to(memory_format=layout).train()
    before = peak_mb("cpu")

    def step() -> None:
        model.zero_grad()
        with EventStorage(0), mixed_precision("cpu", torch.bfloat16 if amp else None, "--amp"):
            losses = model(batch)
        sum(losses.values()).backward()

    for _ in range(steps + 1):
        watch.timed("step", step)()
    return {
        "seconds_per_image": round(watch.best()["step"] / len(batch), 4),
        "images": len(batch),
        "mb": round(peak_mb("cpu") - before),
    }


def main() -> None:
    """Measure the rows of a table, print them and write them."""
    parser = make_parser(__doc__)
    parser.add_argument("--table", choices=tuple(BASES), default="hituav")
    parser.add_argument("--rows", nargs="+", help="names of rows; default: all")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--amp", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    rows = {row.name: row for row in TABLES[args.table]}
    if unknown := sorted(set(args.rows or ()) - set(rows)):
        parser.error(f"--rows: {unknown} not in {sorted(rows)}")
    if args.one:
        print(json.dumps(measure(rows[args.one], args.steps, args.amp)))
        return
    path, base = RESULTS / args.table / TRAINING_COST, BASES[args.table]
    setup = {"precision": "bfloat16" if args.amp else "float32", "steps": args.steps}
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys((base, *(args.rows or rows))):
        options = ["--table", args.table, "--steps", str(args.steps), *(["--amp"] if args.amp else [])]
        try:
            row = in_own_process(*options, "--one", name)
        except ContenderError as error:
            raise SystemExit(f"{name} failed:\n{error}") from error
        if name == base:
            found = _alike(path, setup, row, base)
        found[name] = row
        times = row["seconds_per_image"] / found[base]["seconds_per_image"]
        print(f"{name}: {row['seconds_per_image']:.3f} s an image, × {times:.2f}, {row['mb']} MB", flush=True)
        write_record(path, **setup, rows={known: found[known] for known in rows if known in found})


def _alike(path: Path, setup: dict[str, Any], now: dict[str, float], base: str) -> dict[str, Any]:
    """Return the rows of an earlier record with these settings, in which the base row took as long as now."""
    if any(kept_entries(path, key) != value for key, value in setup.items()):
        return {}
    rows = kept_entries(path, "rows")
    then = rows.get(base, {}).get("seconds_per_image", math.inf)
    return rows if abs(now["seconds_per_image"] / then - 1) < SPREAD else {}


if __name__ == "__main__":
    main()
