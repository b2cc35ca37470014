#!/usr/bin/env python
"""Measure what a training step of each row of a table costs: seconds an image, and memory.

    DETECTRON2_DATASETS=/data python benchmarks/training_cost.py --table hituav --amp
    python benchmarks/quick_table.py --table hituav --table-only      # puts them into results/hituav/details.md

Forward and backward pass on the first batch of a row's own training, with its crops, its batch size and its true
objects, from the weights at its start. Each row runs in a process of its own, on one CPU thread; the best of some steps
after the first counts. Memory is the peak above that of the built model. Results go to
``results/TABLE/training_cost.json``, where rows of earlier calls on the same kind of processor stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import RESULTS, ContenderError, first_batches, in_own_process, make_parser, write_record
from quick_table import BASES, TABLES, TRAINING_COST, Row


def measure(row: Row, steps: int, amp: bool) -> dict[str, float]:
    """Measure the training step of one row, in this process."""
    import torch
    from detectron2.config import instantiate
    from detectron2.utils.events import EventStorage
    from timing import Stopwatch, peak_mb

    from d2tiny.config import load_config
    from d2tiny.utils.precision import mixed_precision

    cfg = load_config(row.config_name, ["train.seed=0", *row.overrides])
    layout = torch.channels_last if cfg.train.channels_last else torch.preserve_format
    torch.manual_seed(0)
    batch = next(first_batches(cfg, 1))
    model, watch = instantiate(cfg.model).to(memory_format=layout).train(), Stopwatch("cpu")
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
    path = RESULTS / args.table / TRAINING_COST
    setup = {"precision": "bfloat16" if args.amp else "float32", "steps": args.steps}
    found = _known(path, setup)
    for name in args.rows or rows:
        options = ["--table", args.table, "--steps", str(args.steps), *(["--amp"] if args.amp else [])]
        try:
            found[name] = in_own_process(*options, "--one", name)
        except ContenderError as error:
            print(f"{name}: FAILED\n{error}", flush=True)
            continue
        base = found.get(BASES[args.table])
        times = f", × {found[name]['seconds_per_image'] / base['seconds_per_image']:.2f}" if base else ""
        print(f"{name}: {found[name]['seconds_per_image']:.3f} s an image{times}, {found[name]['mb']} MB", flush=True)
        write_record(path, **setup, rows={row: found[row] for row in rows if row in found})


def _known(path: Path, setup: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the rows of an earlier call on this kind of processor with these settings; others do not compare."""
    from d2tiny.utils.env import describe_hardware

    if not path.exists():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    alike = record["hardware"]["processor"] == describe_hardware()["processor"]
    known: dict[str, dict[str, float]] = record["rows"]
    return known if alike and all(record[key] == value for key, value in setup.items()) else {}


if __name__ == "__main__":
    main()
