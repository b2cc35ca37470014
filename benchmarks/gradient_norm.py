#!/usr/bin/env python
"""Norm of the gradient of models on the first batches of their training, in float32.

    DETECTRON2_DATASETS=/data python benchmarks/gradient_norm.py --table pfdh
    DETECTRON2_DATASETS=/data python benchmarks/gradient_norm.py --table scalebridge_aerial --seeds 1 \
        --rows dino_lite0_dgq_heavy --losses loss_density loss_count --weights model_final.pth
    DETECTRON2_DATASETS=/data python benchmarks/gradient_norm.py --output pfdh/gradient_norms_m.json \
        dataloader.train.dataset.names=aerial_train --configs aitod/yolo11_m_600e aitod/yolo11_m_pfdh_600e

A part whose norm is a multiple of that of the model without it learns badly with the same rate. With ``--losses`` the
gradients of these losses and of all others are compared on the parameters that both reach, by module. Instead of rows
of a table, configs with overrides may be named. Results go to ``results/TABLE/gradient_norms.json``.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common import RESULTS, first_batches, make_parser, parse_with_overrides, write_record
from quick_table import TABLES, Row

if TYPE_CHECKING:
    from torch import Tensor, nn

MODULES = ("backbone.backbone", "backbone.neck", "encoder")


def norm(row: Row, seed: int, batches: int, weights: Path | None) -> float:
    """Return the mean norm of the gradient of all parameters."""
    import torch

    found = []
    for model, losses in _steps(row, seed, batches, weights):
        sum(losses.values()).backward()
        found.append(float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()))
    return statistics.mean(found)


def shares(row: Row, seed: int, batches: int, weights: Path | None, chosen: list[str]) -> dict[str, dict[str, float]]:
    """Return the mean norms of the gradients of the chosen losses and of the others, and their cosine, by module."""
    import torch

    found: dict[str, list[tuple[float, float, float]]] = {}
    for model, losses in _steps(row, seed, batches, weights):
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if missing := sorted(set(chosen) - set(losses)):
            raise SystemExit(f"{row.name} has no losses {missing}; it has {sorted(losses)}.")
        parts = []
        for some in ([losses[name] for name in chosen], [v for name, v in losses.items() if name not in chosen]):
            gradients = torch.autograd.grad(sum(some), list(parameters.values()), retain_graph=True, allow_unused=True)
            parts.append({n: g.flatten() for n, g in zip(parameters, gradients, strict=True) if g is not None})
        for module in MODULES:
            names = [name for name in parts[0] if name in parts[1] and name.startswith(f"{module}.")]
            if names:
                one, other = (torch.cat([part[name] for name in names]) for part in parts)
                cosine = torch.cosine_similarity(one, other, dim=0)
                found.setdefault(module, []).append((float(one.norm()), float(other.norm()), float(cosine)))
    keys = ("losses", "others", "cosine")
    return {
        module: {
            key: round(statistics.mean(part), 2) for key, part in zip(keys, zip(*values, strict=True), strict=True)
        }
        for module, values in found.items()
    }


def _steps(row: Row, seed: int, batches: int, weights: Path | None) -> Iterator[tuple[nn.Module, Mapping[str, Tensor]]]:
    import torch
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import instantiate

    from d2tiny.config import load_config

    cfg = load_config(row.config_name, [f"train.seed={seed}", *row.overrides])
    torch.manual_seed(seed)
    model = instantiate(cfg.model).train()
    if weights is not None:
        DetectionCheckpointer(model).load(str(weights))
    for batch in first_batches(cfg, batches):
        model.zero_grad()
        yield model, model(batch)


def main() -> None:
    """Measure the rows of a table, print them and write them."""
    parser = make_parser(__doc__)
    parser.add_argument("--table", choices=tuple(TABLES), default="pfdh")
    parser.add_argument("--rows", nargs="+", help="names of rows; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--losses", nargs="+", help="compare the gradients of these losses with those of all others")
    parser.add_argument("--weights", type=Path, help="of a trained model; default: an untrained one")
    parser.add_argument("--configs", nargs="+", help="names of configs instead of rows")
    parser.add_argument("--output", help="file in results/")
    args, overrides = parse_with_overrides(parser)
    rows = [row for row in TABLES[args.table] if not args.rows or row.name in args.rows]
    if args.configs:
        rows = [Row(config, config, config) for config in args.configs]
    rows = [replace(row, overrides=(*overrides, *row.overrides)) for row in rows]

    def measure(row: Row, seed: int) -> float | dict[str, dict[str, float]]:
        if args.losses:
            return shares(row, seed, args.batches, args.weights, args.losses)
        return round(norm(row, seed, args.batches, args.weights), 1)

    found = {}
    for row in rows:
        found[row.name] = [measure(row, seed) for seed in args.seeds]
        print(row.name, found[row.name], flush=True)
    record = {"losses": args.losses, "shares": found} if args.losses else {"norms": found}
    path = RESULTS / (args.output or f"{args.table}/gradient_norms.json")
    write_record(path, seeds=args.seeds, batches=args.batches, **record)


if __name__ == "__main__":
    main()
