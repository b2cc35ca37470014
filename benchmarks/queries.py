#!/usr/bin/env python
"""Measure the number of queries that trained transformers use per image, their count of objects, and their time.

    python benchmarks/quick_table.py --table transformers ...     # trains them
    DETECTRON2_DATASETS=/data python benchmarks/queries.py

The final weights of ``quick_table.py --table transformers`` run on the validation images one at a time, on one thread,
in float32. All models process an image before the next one, so that other load on the machine affects all of them.
Times are the best of some calls for each image, then the mean over the images. Results go to
``results/transformers/queries.json``.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, ROOT, make_parser, write_record
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from quick_table import TABLES, Row
from tqdm import tqdm

from d2tiny.config import load_config

GROUPS = {"under 10 objects": (0, 10), "10 to 49": (10, 50), "50 and more": (50, 10**9)}


class MeasuredModel:
    """A trained model whose number of queries, count of objects and time are recorded."""

    def __init__(self, row: Row, weights: Path) -> None:
        self.model = instantiate(load_config(f"quick/{row.config}", list(row.overrides)).model).eval()
        DetectionCheckpointer(self.model).load(str(weights))
        self.queries, self.count = 0, float("nan")
        self.model.decoder.register_forward_pre_hook(self._record_queries)
        if self.model.density is not None:
            density = self.model.density.predict_density
            self.model.density.predict_density = lambda *args: self._record_count(density(*args))

    def _record_queries(self, _: Any, args: tuple[Any, ...]) -> None:
        self.queries = args[0].shape[1]

    def _record_count(self, density: torch.Tensor) -> torch.Tensor:
        self.count = float(density.sum())
        return density

    def __call__(self, item: dict[str, Any], calls: int) -> dict[str, float]:
        """Return queries, count and shortest time in seconds for one image."""
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            with torch.no_grad():
                self.model([item])
            times.append(time.perf_counter() - start)
        return {"seconds": min(times), "queries": self.queries, "count": self.count}


def summary(rows: list[dict[str, float]], objects: list[int]) -> dict[str, Any]:
    """Return means over the images, of queries also by number of objects."""
    means: dict[str, Any] = {
        "queries": round(statistics.mean(r["queries"] for r in rows), 1),
        "seconds": round(statistics.mean(r["seconds"] for r in rows), 4),
    }
    for name, (low, high) in GROUPS.items():
        part = [r["queries"] for r, n in zip(rows, objects, strict=True) if low <= n < high]
        means[f"queries, {name}"] = round(statistics.mean(part), 1) if part else None
    if rows[0]["count"] == rows[0]["count"]:
        errors = [abs(r["count"] - n) for r, n in zip(rows, objects, strict=True)]
        means["mean error of the count"] = round(statistics.mean(errors), 1)
    return means


def main() -> None:
    """Measure all trained models, print a table and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "output" / "quick_table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--calls", type=int, default=3, help="calls of each model for each image; the best counts")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image")
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = {}
    for row in TABLES["transformers"]:
        for seed in args.seeds:
            weights = args.work / f"{row.name}_seed{seed}" / "model_final.pth"
            if weights.is_file():
                models[f"{row.name}_seed{seed}"] = MeasuredModel(row, weights)
    if not models:
        parser.error(f"no trained model in {args.work}: quick_table.py --table transformers trains them")
    test = load_config(f"quick/{TABLES['transformers'][0].config}").dataloader.test
    loader = instantiate(test)
    counts = {
        record["image_id"]: sum(not a.get("iscrowd", 0) for a in record["annotations"])
        for record in DatasetCatalog.get(test.dataset.names)
    }
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    objects = []
    for number, batch in enumerate(tqdm(loader, desc="images")):
        for item in [] if number % args.every else batch:
            objects.append(counts[item["image_id"]])
            for name, model in models.items():
                rows[name].append(model(item, args.calls))
    means = {name: summary(results, objects) for name, results in rows.items()}
    columns = list(dict.fromkeys(key for row in means.values() for key in row))
    print("| model | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name, row in means.items():
        print(f"| {name} | " + " | ".join(str(row.get(key, "-")) for key in columns) + " |")
    write_record(
        RESULTS / "transformers" / "queries.json",
        command="python benchmarks/queries.py",
        images=len(objects),
        calls=args.calls,
        objects={name: sum(low <= n < high for n in objects) for name, (low, high) in GROUPS.items()},
        rows=means,
    )


if __name__ == "__main__":
    main()
