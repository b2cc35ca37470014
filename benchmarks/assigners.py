#!/usr/bin/env python
"""Compare label assignment with HLA (KLD): d2tiny on grids and on plain boxes, and the dense definition.

    python benchmarks/assigners.py [--reference FILE]

800 × 800 px, P2-P6, receptive-field anchors; objects of 12 px on average. Every contender runs in a process of its own
on one thread; times are CPU seconds of one call, memory is what the call adds. The dense definition
(``tests/reference/hla_dense.py``) computes full matrices and loops over objects, as published code does; it is left out
where its matrices do not fit into memory. ``--reference`` adds another implementation, for example the published one: a
Python file with ``assign(priors, gt_boxes)`` that takes XYXY float32 and returns 0, -1 or the matched object + 1 for
each prior. Results go to ``results/assigners``.
"""

from __future__ import annotations

import argparse
import json
import runpy
import time
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, in_own_process, make_parser, peak_memory_mb, write_record

CASES = ((1, 50), (1, 500), (1, 2000), (3, 500), (3, 2000), (3, 10000))  # ratios of the anchors, objects
CONTENDERS = {
    "grid": "d2tiny on the grid",
    "boxes": "d2tiny on plain boxes",
    "dense": "dense definition",
    "reference": "published code",
}
_MAX_DENSE_BYTES = 12e9  # of the (object × prior) matrices; the dense definition holds about fifteen in float32


def measure(name: str, ratios: int, objects: int, reference: Path | None) -> dict[str, Any]:
    """Measure one contender in this process; the assignment is returned as a checksum."""
    import numpy as np
    import torch

    from d2tiny.modeling.assigners import HLAAssigner
    from d2tiny.modeling.priors import RFAnchorGenerator, grid_from_generator

    torch.set_num_threads(1)
    strides = [4, 8, 16, 32, 64]
    generator = RFAnchorGenerator(strides=strides, aspect_ratios=[0.5, 1.0, 2.0] if ratios == 3 else [1.0])
    grid = grid_from_generator(generator, [torch.zeros(1, 1, -(-800 // s), -(-800 // s)) for s in strides])
    rng = np.random.default_rng(0)
    centre, size = rng.uniform(0, 800, (objects, 2)), np.exp(rng.normal(np.log(12), 0.5, (objects, 2)))
    gts = torch.from_numpy(np.concatenate((centre - size / 2, centre + size / 2), axis=1)).float()
    assigner, boxes = HLAAssigner(), grid.boxes()

    def ours(priors: Any) -> torch.Tensor:
        result = assigner(priors, gts)
        return torch.where(result.labels == 1, result.matched_idxs + 1, result.labels.long())

    dense = runpy.run_path(str(ROOT / "tests" / "reference" / "hla_dense.py"))["assign"]
    calls = {
        "grid": lambda: ours(grid),
        "boxes": lambda: ours(boxes),
        "dense": lambda: dense(boxes, gts),
    }
    if reference is not None:
        published = runpy.run_path(str(reference))["assign"]
        calls["reference"] = lambda: published(boxes.clone(), gts.clone())  # it may change its arguments
    assigner(grid, gts[:1])  # initialises torch
    before, start = peak_memory_mb(), time.process_time()
    answer = calls[name]()
    seconds = time.process_time() - start
    if name in ("grid", "boxes"):  # short: take the best of several calls
        for _ in range(5):
            start = time.process_time()
            calls[name]()
            seconds = min(seconds, time.process_time() - start)
    return {
        "cpu_s": seconds,
        "extra_mb": peak_memory_mb() - before,
        "priors": len(grid),
        "positives": int((answer > 0).sum()),
        "checksum": int((answer * torch.arange(1, len(answer) + 1)).sum()),
    }


def main() -> None:
    """Measure every contender in every case, print a table and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS / "assigners")
    parser.add_argument("--reference", type=Path, help="file with another implementation")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, ratios, objects = args.one
        print(json.dumps(measure(name, int(ratios), int(objects), args.reference)))
        return
    rows = []
    print("| priors × objects | | CPU s | × faster | extra MB | positives | same |\n|---|---|---|---|---|---|---|")
    for ratios, objects in CASES:
        group: dict[str, dict[str, Any]] = {}
        for name in reversed(CONTENDERS):
            if name == "reference" and args.reference is None:
                continue
            if name in ("dense", "reference") and 53294 * ratios * objects * 4 * 15 > _MAX_DENSE_BYTES:
                continue
            options = ["--one", name, str(ratios), str(objects)]
            options += ["--reference", str(args.reference)] if args.reference else []
            group[name] = in_own_process(*options)
        base = group.get("dense", group["boxes"])["cpu_s"]
        for name, row in group.items():
            same = row["checksum"] == group["grid"]["checksum"]
            rows.append({"ratios": ratios, "objects": objects, "contender": name, "same_answer": same, **row})
            counts = f"{row['positives']:,} | {'yes' if same else 'no'}"
            print(
                f"| {row['priors']:,} × {objects:,} | {CONTENDERS[name]} | {row['cpu_s']:.4g} | "
                f"{base / row['cpu_s']:.0f} | {row['extra_mb']:.0f} | {counts} |",
                flush=True,
            )
        if group["grid"]["checksum"] != group["boxes"]["checksum"]:
            raise SystemExit("The answers on the grid and on plain boxes disagree.")
    write_record(args.results / "hla.json", rows=rows)


if __name__ == "__main__":
    main()
