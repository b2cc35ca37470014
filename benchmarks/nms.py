#!/usr/bin/env python
"""Compare non-maximum suppression on the CPU with torchvision's ``batched_nms``.

    python benchmarks/nms.py

One thread, IoU 0.5, eight classes, about four jittered candidates for each object of 2-60 px, at the density of a
crowded scene. The table shows the best of some calls, and how many of the boxes that greedy suppression within each
class keeps were missed or added by each. Writes ``results/models/nms.json``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from common import RESULTS, make_parser, write_record
from torch import Tensor
from torchvision.ops import batched_nms as torchvision_batched_nms
from torchvision.ops import nms

from d2tiny.ops.nms import batched_nms

COUNTS = (300, 1000, 4000, 24_000, 100_000)
CLASSES, THRESHOLD = 8, 0.5
AREA = 960  # px² of the scene for each candidate


def candidates(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes (N, 4), scores (N,) and classes (N,)."""
    g = torch.Generator().manual_seed(0)
    objects = count // 4
    centre = torch.rand(objects, 2, generator=g) * (count * AREA) ** 0.5
    size = torch.exp(torch.rand(objects, 2, generator=g) * 3.4 + 0.7)
    of = torch.randint(0, objects, (count,), generator=g)
    centre = centre[of] + torch.randn(count, 2, generator=g) * size[of] * 0.15
    size = size[of] * torch.exp(torch.randn(count, 2, generator=g) * 0.15)
    classes = torch.randint(0, CLASSES, (objects,), generator=g)[of]
    return torch.cat((centre - size / 2, centre + size / 2), 1), torch.rand(count, generator=g), classes


def greedy(boxes: Tensor, scores: Tensor, classes: Tensor) -> set[int]:
    """Return what suppression within each class keeps, one class at a time."""
    kept: set[int] = set()
    for cls in range(CLASSES):
        index = (classes == cls).nonzero().flatten()
        kept.update(index[nms(boxes[index], scores[index], THRESHOLD)].tolist())
    return kept


def best_of(function: Callable[[], Tensor], calls: int) -> tuple[float, Tensor]:
    """Return the shortest time in seconds and the answer."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        answer = function()
        times.append(time.perf_counter() - start)
    return min(times), answer


def measure(count: int, calls: int) -> dict[str, Any]:
    """Measure both with one number of candidates."""
    given = candidates(count)
    theirs, their_answer = best_of(
        lambda: torchvision_batched_nms(*given, THRESHOLD), max(3, calls // (1 + count // 4000))
    )
    ours, our_answer = best_of(lambda: batched_nms(*given, THRESHOLD), calls)
    exact = greedy(*given)
    return {
        "candidates": count,
        "kept": len(exact),
        "torchvision_ms": round(1e3 * theirs, 3),
        "d2tiny_ms": round(1e3 * ours, 3),
        "ratio": round(theirs / ours, 1),
        "torchvision_wrong": len(exact ^ set(their_answer.tolist())),
        "d2tiny_wrong": len(exact ^ set(our_answer.tolist())),
    }


def main() -> None:
    """Measure all counts, print a table and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--calls", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    batched_nms(*candidates(300), THRESHOLD)  # compiles
    rows = [measure(count, args.calls) for count in COUNTS]
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    write_record(RESULTS / "models" / "nms.json", rows=rows)


if __name__ == "__main__":
    main()
