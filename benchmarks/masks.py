#!/usr/bin/env python
"""What E-FPN-BS does to its level: how well masks separate objects, what the level looks like, what reaches the gates.

    DETECTRON2_DATASETS=/data python benchmarks/masks.py output/quick_table/aerial/efpnbs_taught_seed0 ... \
        --result results/aerial/masks.json

For each trained model: the area under the ROC curve of its masks on the validation images, foreground against
background (½ separates nothing), over all their cells and as a mean over images; the standard deviation and the share
of negative values of each level of the pyramid on these images; the norms of the gradients of gates and refinement over
the first batches of the training, at its end. Runs that the record has already stay in it.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, first_batches, kept_entries, make_parser, write_record
from detectron2.structures import Boxes, Instances
from queries import images_with_boxes, load_run
from torch import Tensor, nn

from d2tiny.data.coco.boxes import xywh_to_xyxy
from d2tiny.modeling.meta_arch.foreground import area_under_roc, foreground
from d2tiny.modeling.necks import EFPNBS

PARTS = ("gate_high", "gate_low", "fuse", "refine")


def necks_of(model: nn.Module) -> list[EFPNBS]:
    """Return the necks of a model that have masks."""
    return [module for module in model.modules() if isinstance(module, EFPNBS) and len(module.fbsm)]


@torch.no_grad()
def look(cfg: Any, model: Any) -> dict[str, Any]:
    """Return AUC of the masks and statistics of the levels over the validation images."""
    scores: list[tuple[Tensor, Tensor]] = []
    levels: dict[str, list[Tensor]] = {}
    necks = necks_of(model)
    for neck in necks:
        neck.training = True  # it keeps its masks then, and has no layer that behaves differently
    for item, boxes in images_with_boxes(cfg.dataloader.test):
        images = model.preprocess_image([item])
        features = model.backbone(images.tensor)
        for name, level in features.items():
            values = level.flatten()
            moments = (values.mean(), values.square().mean(), (values < 0).float().mean())
            levels.setdefault(name, []).append(torch.stack([moment.double() for moment in moments]))
        truth = Instances(images.image_sizes[0])
        truth.gt_boxes = Boxes(torch.as_tensor(xywh_to_xyxy(boxes), dtype=torch.float32).reshape(-1, 4))
        for neck in necks:
            for name, mask in neck.masks.items():
                stride = model.backbone.output_shape()[name].stride
                inside, valid = (x[0] for x in foreground([truth], stride, (mask.shape[-2], mask.shape[-1])))
                score = mask[0].float().mean(dim=0)
                scores.append((score[inside & valid], score[valid & ~inside]))
    for neck in necks:
        neck.training, neck.masks = False, {}
    found: dict[str, Any] = {"levels": {name: _moments(torch.stack(rows)) for name, rows in levels.items()}}
    if scores:
        of_images = [auc for pair in scores if not math.isnan(auc := area_under_roc(*pair))]
        together = area_under_roc(*(torch.cat(part) for part in zip(*scores, strict=True)))
        mean = statistics.fmean(of_images) if of_images else math.nan
        found["AUC"] = {"all cells": round(together, 3), "mean of images": round(mean, 3)}
    return found


def _moments(rows: Tensor) -> dict[str, float]:
    mean, square, negative = rows.mean(dim=0).tolist()
    return {"std": round(math.sqrt(square - mean**2), 3), "negative": round(negative, 3)}


def gradients(cfg: Any, model: Any, batches: int) -> dict[str, float]:
    """Return the mean norms of the gradients of the parts of FBSM over the first batches of the training."""
    norms: dict[str, list[float]] = {}
    model.train()
    for batch in first_batches(cfg, batches):
        model.zero_grad()
        sum(model(batch).values()).backward()
        for neck in necks_of(model):
            for part in PARTS:
                parameters = [p for fbsm in neck.fbsm.values() for p in getattr(fbsm, part).parameters()]
                grads = [p.grad.norm() for p in parameters if p.grad is not None]
                norms.setdefault(part, []).append(float(torch.stack(grads).norm()) if grads else 0.0)
    model.eval()
    return {part: round(statistics.mean(values), 4) for part, values in norms.items()}


def main() -> None:
    """Look at the models and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folders of trainings")
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--result", type=Path, default=RESULTS / "aerial" / "masks.json")
    args = parser.parse_args()
    models = kept_entries(args.result, "models")
    for run in args.runs:
        cfg, model = load_run(run)
        found = look(cfg, model)
        if necks_of(model):
            found["gradients"] = gradients(cfg, model, args.batches)
        models[run.name] = found
        print(run.name, json.dumps(found), flush=True)
        write_record(args.result, batches=args.batches, models=models)


if __name__ == "__main__":
    main()
