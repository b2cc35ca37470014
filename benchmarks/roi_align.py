#!/usr/bin/env python
"""Compare RoIAlign on the CPU with torchvision's, forward and backward.

    python benchmarks/roi_align.py

One thread, 7 × 7 bins, one sample for each pixel that a bin spans; boxes of a given mean size with random sides. The
table shows the best of some calls. Writes ``results/models/roi_align.json``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from common import RESULTS, make_parser, write_record
from torch import Tensor
from torchvision.ops import roi_align as torchvision_roi_align

from d2tiny.ops.roi_align import roi_align

# Channels, side of the map in cells, stride, boxes, images, mean side of the boxes in px.
CASES = ((256, 200, 4, 3000, 1, 12), (256, 200, 4, 3000, 1, 64), (256, 200, 4, 512, 1, 32), (64, 40, 4, 1024, 8, 12))
BINS = (7, 7)


def contenders(rois: Tensor, stride: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return both implementations as functions of the feature map."""
    levels = torch.zeros(len(rois), dtype=torch.int64)
    return {
        "torchvision": lambda x: torchvision_roi_align(x, rois, BINS, 1 / stride, 0, True),
        "d2tiny": lambda x: roi_align([x], rois, levels, BINS, [1 / stride]),
    }


def measure(case: tuple[int, ...], calls: int) -> dict[str, Any]:
    """Measure the best times of one case in seconds, and the largest differences of values and gradients."""
    channels, cells, stride, count, images, side = case
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, channels, cells, cells, generator=generator)
    centre = torch.rand(count, 2, generator=generator) * cells * stride
    half = side * torch.exp(torch.randn(count, 2, generator=generator) / 2) / 2
    index = torch.randint(0, images, (count, 1), generator=generator).float()
    rois = torch.cat((index, centre - half, centre + half), dim=1)
    names = ("channels", "cells", "stride", "boxes", "images", "side_px")
    row: dict[str, Any] = dict(zip(names, case, strict=True))
    answers = []
    for name, function in contenders(rois, stride).items():
        times = []
        for _ in range(calls):
            feature_map = x.clone().requires_grad_()
            start = time.perf_counter()
            out = function(feature_map)
            middle = time.perf_counter()
            out.sum().backward()
            times.append((middle - start, time.perf_counter() - middle))
            assert feature_map.grad is not None
            answer = out.detach(), feature_map.grad
        row[name] = [round(min(t), 5) for t in zip(*times, strict=True)]
        answers.append(answer)
    row["difference"] = [float((a - b).abs().max()) for a, b in zip(*answers, strict=True)]
    return row


def main() -> None:
    """Measure all cases, print a table and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--calls", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| boxes | side px | map | torchvision ms | d2tiny ms | × | backward ms | d2tiny ms | × |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows = []
    for case in CASES:
        row = measure(case, args.calls)
        rows.append(row)
        cells = [
            f"{1000 * theirs:.0f} | {1000 * ours:.0f} | {theirs / ours:.1f}"
            for theirs, ours in zip(row["torchvision"], row["d2tiny"], strict=True)
        ]
        shape = f"{row['images']} × {row['channels']} × {row['cells']}²"
        print(f"| {row['boxes']:,} | {row['side_px']} | {shape} | " + " | ".join(cells) + " |", flush=True)
    write_record(RESULTS / "models" / "roi_align.json", rows=rows)


if __name__ == "__main__":
    main()
