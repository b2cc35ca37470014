#!/usr/bin/env python
"""Norm of the gradient of untrained models on the first batches of their training, in float32.

    DETECTRON2_DATASETS=/data python benchmarks/gradient_norm.py --table pfdh

A part whose norm is a multiple of that of the model without it learns badly with the same rate. Results go to
``results/TABLE/gradient_norms.json``.
"""

from __future__ import annotations

import statistics
from itertools import islice

from common import RESULTS, make_parser, write_record
from quick_table import TABLES, Row


def norm(row: Row, seed: int, batches: int) -> float:
    """Return the mean norm of the gradient of all parameters."""
    import torch
    from detectron2.config import instantiate
    from detectron2.utils.events import EventStorage

    from d2tiny.config import load_config

    cfg = load_config(row.config_name, [f"train.seed={seed}", *row.overrides])
    torch.manual_seed(seed)
    model = instantiate(cfg.model).train()
    norms = []
    for number, batch in enumerate(islice(instantiate(cfg.dataloader.train).iter_from(0), batches)):
        torch.manual_seed(number)
        model.zero_grad()
        with EventStorage(0):
            sum(model(batch).values()).backward()
        norms.append(float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()))
    return statistics.mean(norms)


def main() -> None:
    """Measure the rows of a table, print them and write them."""
    parser = make_parser(__doc__)
    parser.add_argument("--table", choices=tuple(TABLES), default="pfdh")
    parser.add_argument("--rows", nargs="+", help="names of rows; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--batches", type=int, default=3)
    args = parser.parse_args()
    found = {}
    for row in TABLES[args.table]:
        if not args.rows or row.name in args.rows:
            found[row.name] = [round(norm(row, seed, args.batches), 1) for seed in args.seeds]
            print(row.name, found[row.name], flush=True)
    path = RESULTS / args.table / "gradient_norms.json"
    write_record(path, seeds=args.seeds, batches=args.batches, norms=found)


if __name__ == "__main__":
    main()
