#!/usr/bin/env python
"""Compare depth-wise convolutions on the CPU with PyTorch's, without gradients and with them.

    python benchmarks/depthwise.py

One thread, float32, channels last; maps of the detectors that have such layers. The table shows the processor
time of the best of some calls, in milliseconds. Writes ``results/models/depthwise.json``.
"""

from __future__ import annotations

from typing import Any

import torch
from common import RESULTS, make_parser, write_record
from timing import Stopwatch
from torch import Tensor, nn

from d2tiny.layers.depthwise import keep_depthwise_float32
from d2tiny.utils.malloc import keep_freed_memory

# Where, images, channels, height, width, side of the kernel, stride, dilation.
CASES = (
    ("EfficientNet-Lite0, HIT-UAV", 8, 144, 67, 83, 5, 2, 1),
    ("EfficientNet-Lite0, HIT-UAV", 8, 240, 32, 40, 5, 1, 1),
    ("EfficientNet-Lite0, HIT-UAV", 8, 672, 16, 20, 5, 1, 1),
    ("EfficientNet-Lite0, HIT-UAV", 8, 1152, 8, 10, 5, 1, 1),
    ("DGQ's density, HIT-UAV", 8, 128, 64, 80, 3, 1, 2),
    ("REM's wide expert, HIT-UAV", 8, 128, 64, 80, 7, 1, 3),
    ("REM's wide expert, 800² px", 1, 256, 200, 200, 7, 1, 3),
    ("SARL's dilated branch, 800² px", 1, 256, 100, 100, 3, 1, 3),
)


def measure(case: tuple[Any, ...], calls: int) -> dict[str, Any]:
    """Measure the best times of one case in seconds, and the largest differences of results and gradients."""
    _, images, channels, height, width, kernel, stride, dilation = case
    torch.manual_seed(0)
    padding = dilation * (kernel // 2) if stride == 1 else 0
    plain = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels)
    ours = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels)
    ours.load_state_dict(plain.state_dict())
    keep_depthwise_float32(ours)
    x = torch.randn(images, channels, height, width).contiguous(memory_format=torch.channels_last)
    names = ("where", "images", "channels", "height", "width", "kernel", "stride", "dilation")
    row: dict[str, Any] = dict(zip(names, case, strict=True))
    answers = []
    for name, layer in (("pytorch", plain), ("d2tiny", ours)):
        layer.to(memory_format=torch.channels_last)
        given = x.clone().requires_grad_()

        def step(layer: nn.Conv2d = layer, given: Tensor = given) -> None:
            given.grad = None
            layer.zero_grad()
            out = layer(given)
            out.backward(out.detach())

        step()
        watch = Stopwatch("cpu")
        with torch.no_grad():
            answers.append((layer(x), given.grad, layer.weight.grad))
            for _ in range(calls):
                watch.timed("forward", layer)(x)
        for _ in range(calls):
            watch.timed("step", step)()
        row[name] = [round(seconds, 5) for seconds in watch.best().values()]
    row["difference"] = [float((a - b).abs().max() / a.abs().max()) for a, b in zip(*answers, strict=True)]
    return row


def main() -> None:
    """Measure all cases, print a table and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--calls", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| layer | map | kernel | stride | dilation | PyTorch ms | d2tiny ms | × | training ms | d2tiny ms | × |")
    print("|" + "---|" * 11)
    rows = []
    for case in CASES:
        row = measure(case, args.calls)
        rows.append(row)
        cells = [
            f"{1000 * theirs:.1f} | {1000 * ours:.1f} | {theirs / ours:.1f}"
            for theirs, ours in zip(row["pytorch"], row["d2tiny"], strict=True)
        ]
        shape = f"{row['images']} × {row['channels']} × {row['height']} × {row['width']}"
        layer = f"{row['where']} | {shape} | {row['kernel']} | {row['stride']} | {row['dilation']}"
        print(f"| {layer} | " + " | ".join(cells) + " |", flush=True)
    write_record(RESULTS / "models" / "depthwise.json", rows=rows)


if __name__ == "__main__":
    main()
