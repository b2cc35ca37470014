#!/usr/bin/env python
"""Measure time and memory of SimOTA, TAL and YOLOv5's matching on 800 × 800 px for different numbers of objects.

    python benchmarks/dense_assignment.py

Objects have 12 px on average; predictions lie near the objects, as those of a trained model. Times are CPU seconds of a
call on one thread, with every case in a process of its own. ``dense`` is the same rule over the full (object × prior)
matrix, as released code computes it (SimOTA and TAL; left out where it would need more than 8 GB). Its result differs
for SimOTA, which there also considers priors near other objects. Results go to ``results/assigners``.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from common import RESULTS, in_own_process, make_parser, peak_memory_mb, write_record
from detectron2.config import instantiate
from timing import batch
from torch import Tensor

from d2tiny.config import load_config
from d2tiny.modeling.assigners import Predictions
from d2tiny.modeling.priors import GridPriors
from d2tiny.ops.boxes import aligned_ciou, pairwise_iou

CONFIGS = {
    "SimOTA": "quick/yolox_s",
    "TAL": "quick/yolo11_n",
    "TAL tiny": "quick/yolo11_n_tinytal",
    "ratio": "quick/yolov5_s",
}
OBJECTS, SIZE, LIMIT_GB = (50, 500, 2000, 10000), 800, 8


def case(kind: str, objects: int) -> tuple[Any, GridPriors, Tensor, Predictions]:
    """Return assigner, priors, objects and predictions."""
    head = instantiate(load_config(CONFIGS[kind]).model.head)
    priors = head.priors([torch.zeros(1, 1, SIZE // s, SIZE // s) for s in head.strides])
    gts = batch(objects, SIZE)[0]["instances"].gt_boxes.tensor
    gts = gts[((gts[:, 2:] - gts[:, :2]) > 0).all(dim=1)]
    generator = torch.Generator().manual_seed(0)
    boxes = priors.boxes()
    near = torch.cat(
        [torch.cdist((b[:, :2] + b[:, 2:]) / 2, (gts[:, :2] + gts[:, 2:]) / 2).argmin(1) for b in boxes.split(256)]
    )
    noisy = gts[near] + torch.randn(len(boxes), 4, generator=generator)
    noisy = torch.cat((noisy[:, :2], torch.maximum(noisy[:, 2:], noisy[:, :2] + 1)), dim=1)
    scores = torch.rand(len(boxes), 8, generator=generator)
    return head.assigner, priors, gts, Predictions(noisy, scores, torch.zeros(len(gts), dtype=torch.int64))


def dense(kind: str, priors: GridPriors, gts: Tensor, predictions: Predictions) -> Tensor:
    """Return the matched object (N,) of each prior by the full matrix; -1 without one."""
    boxes = priors.boxes()
    middle, stride = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2] - boxes[:, 0]
    if kind == "SimOTA":
        centre = (gts[:, :2] + gts[:, 2:]) / 2
        near_centre = ((middle[None] - centre[:, None]).abs().amax(2) < 1.5 * stride).float()
        root = predictions.scores.sqrt()
        onehot = torch.zeros(len(gts), 1, 8)
        onehot[:, :, 0] = 1
        target = onehot.expand(-1, len(boxes), -1)
        cls = torch.nn.functional.binary_cross_entropy(root[None].expand(len(gts), -1, -1), target, reduction="none")
        iou = pairwise_iou(gts, predictions.boxes)
        cost = cls.sum(2) - 3 * torch.log(iou + 1e-8) + 1e6 * (1 - near_centre)
        count = iou.topk(10, dim=1).values.sum(1).int().clamp(min=1)
        chosen = torch.zeros_like(cost)
        for g in range(len(gts)):
            chosen[g, cost[g].topk(int(count[g]), largest=False).indices] = 1
        best = cost.argmin(0)
    else:
        inside = torch.minimum(middle[None] - gts[:, None, :2], gts[:, None, 2:] - middle[None]).amin(2) > 1e-9
        pairs = inside.nonzero()
        iou = torch.zeros(inside.shape)
        iou[pairs[:, 0], pairs[:, 1]] = aligned_ciou(predictions.boxes[pairs[:, 1]], gts[pairs[:, 0]]).clamp(min=0)
        align = predictions.scores[:, 0][None] ** 0.5 * iou**6 * inside
        chosen = torch.zeros_like(align).scatter_(1, align.topk(10, dim=1).indices, 1.0) * inside
        best = iou.argmax(0)
    owner = chosen.argmax(0)
    owner = torch.where(chosen.sum(0) > 1, best, owner)
    return torch.where(chosen.sum(0) > 0, owner, -1)


def measure(kind: str, name: str, objects: int) -> dict[str, float]:
    """Measure seconds and MB of one contender in this process."""
    torch.set_num_threads(1)
    assigner, priors, gts, predictions = case(kind, objects)
    _ = priors.boxes(), priors.prior_grids
    if kind == "ratio":

        def call() -> Tensor:
            return assigner.pairs(priors, gts).prior
    elif name == "dense":

        def call() -> Tensor:
            return dense(kind, priors, gts, predictions)
    else:

        def call() -> Tensor:
            return assigner(priors, gts, predictions=predictions).matched_idxs

    few = Predictions(predictions.boxes, predictions.scores, predictions.gt_classes[:1])
    _ = assigner(priors, gts[:1], predictions=few)  # initialises torch
    before, seconds = peak_memory_mb(), []
    for _ in range(1 if name == "dense" else 5):
        start = time.process_time()
        answer = call()
        seconds.append(time.process_time() - start)
    return {"s": min(seconds), "mb": peak_memory_mb() - before, "positives": int((answer >= 0).sum())}


def main() -> None:
    """Measure every case in a process of its own, print a table and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], args.one[1], int(args.one[2]))))
        return
    rows = []
    print("| rule | objects | ms | MB | dense ms | dense MB |\n|---|---|---|---|---|---|")
    for kind in CONFIGS:
        for objects in OBJECTS:
            row: dict[str, Any] = {"rule": kind, "objects": objects}
            for name in ("d2tiny", "dense"):
                if name == "dense" and (kind not in ("SimOTA", "TAL") or objects * 13125 * 8 * 4 * 3 > LIMIT_GB << 30):
                    continue
                row[name] = in_own_process("--one", kind, name, str(objects))
            rows.append(row)
            cells = [
                f"{1e3 * row[n]['s']:.1f} | {row[n]['mb']:.0f}" if n in row else "– | –" for n in ("d2tiny", "dense")
            ]
            print(f"| {kind} | {objects:,} | " + " | ".join(cells) + " |", flush=True)
    path = RESULTS / "assigners" / "dense.json"
    write_record(path, rows=rows)


if __name__ == "__main__":
    main()
