#!/usr/bin/env python
r"""Measure what trained transformers decide: where queries start, how many, the count of objects, tokens, and the time.

    python benchmarks/quick_table.py --table scalebridge --rows dino_lite0 dino_lite0_dgq ...     # trains them
    DETECTRON2_DATASETS=/data python benchmarks/queries.py output/quick_table/scalebridge/dino_lite0_seed0 ... \
        --output scalebridge/queries.json

Each argument is the folder of a run, with its config and final weights. The models run on the validation images one at
a time, on one thread, in float32; all of them process an image before the next one, so that other load on the machine
affects all. ``--queries`` gives all models that many queries for every image, to compare where they start; "peaks on
objects" is the share of the queries at a peak of the density that start inside an object. Times are
the best of some calls for each image, then the mean over the images. The count of objects is compared with the constant
that errs least on the same images, which no model is told. Of the queries whose cell has its centre in an object, the
distance to the object's centre is told, for the cell and for the box that the encoder's head makes of it: a head that
moves boxes too far makes it larger. Of REM, AUC tells how well the share of the category ``tiny`` in a cell says
whether an object under 16 px covers it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, make_parser, write_record
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from omegaconf import DictConfig
from scipy.stats import rankdata
from tqdm import tqdm

from d2tiny.config import load_config
from d2tiny.modeling.meta_arch.dino_explanation import Explanation
from d2tiny.modeling.transformer.routing import covered_by_tiny

SIZES = {"under 8 px": (0, 8), "8 to 16 px": (8, 16), "over 16 px": (16, 10**9)}
GROUPS = {"under 10 objects": (0, 10), "10 to 49": (10, 50), "50 and more": (50, 10**9)}
TINY = 16.0  # px
Result = dict[str, Any]


def load_run(folder: Path) -> tuple[DictConfig, Any]:
    """Return the config of a run and its model with the final weights, in evaluation mode."""
    cfg = load_config(str(folder / "config.yaml"))
    model = instantiate(cfg.model).eval()
    DetectionCheckpointer(model).load(str(folder / "model_final.pth"))
    return cfg, model


def images_with_boxes(test: DictConfig, every: int = 1) -> Iterator[tuple[Result, np.ndarray]]:
    """Yield every n-th image of a test loader, and its true boxes (G, 4) x, y, w, h in px of the model's input."""
    records = {record["image_id"]: record for record in DatasetCatalog.get(test.dataset.names)}
    for number, batch in enumerate(tqdm(instantiate(test), desc="images")):
        for item in [] if number % every else batch:
            objects = [a["bbox"] for a in records[item["image_id"]]["annotations"] if not a.get("iscrowd", 0)]
            # annotations are XYWH in px of the file; the model's input may be resized
            yield item, np.array(objects, dtype=float).reshape(-1, 4) * item["image"].shape[1] / item["height"]


class Evaluators:
    """The evaluator of a config once for each control, whose detections are compared."""

    def __init__(self, cfg: DictConfig, controls: Iterable[str]) -> None:
        self._evaluators = {control: instantiate(cfg.dataloader.evaluator) for control in controls}
        for evaluator in self._evaluators.values():
            evaluator.reset()

    def process(self, item: Result, detect: Callable[[str], list[Result]]) -> None:
        """Take the detections of an image by each control."""
        for control, evaluator in self._evaluators.items():
            evaluator.process([item], detect(control))

    def metrics(self, names: Sequence[str]) -> dict[str, Result]:
        """Return these metrics of each control, rounded."""
        found = {control: evaluator.evaluate()["bbox"] for control, evaluator in self._evaluators.items()}
        return {control: {name: round(of[name], 3) for name in names} for control, of in found.items()}


def by_size(name: str, side: np.ndarray, of_object: np.ndarray) -> dict[str, float | None]:
    """Return for each size of objects the share of which something is true; None where there are none."""
    parts = {size: of_object[(side >= low) & (side < high)] for size, (low, high) in SIZES.items()}
    return {f"{name}, {size}": round(float(part.mean()), 3) if len(part) else None for size, part in parts.items()}


def print_table(head: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print rows by name in Markdown, with the columns of all."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    print(f"| {head} | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(str(row.get(key, "-")) for key in columns) + " |")


class MeasuredRun:
    """A trained model, and what was measured of it for each image."""

    def __init__(self, folder: Path, queries: int | None) -> None:
        self.cfg, self.model = load_run(folder)
        self.images: list[Result] = []
        density = getattr(self.model, "density", None)
        if queries and density is not None:
            density.buckets = [queries] * len(density.buckets)
        elif queries:
            self.model.selection.num_queries = queries
        # What the figures depend on beside the weights.
        self.settings = {"cell_unit": self.model.cell_unit}
        if density is not None:
            self.settings |= {name: getattr(density, name) for name in ("threshold", "peak_threshold", "peak_share")}

    @torch.no_grad()
    def measure(self, item: Result, boxes: np.ndarray, calls: int) -> None:
        """Measure one image with true boxes (G, 4) x, y, w, h in px of the model's input."""
        with recorded_moves(self.model.selection) as moves:
            explained = self.model.explain(item)
        points = explained.reference_points.cpu().numpy()
        low, high = boxes[:, None, :2], boxes[:, None, :2] + boxes[:, None, 2:]
        inside = ((points[None] >= low) & (points[None] <= high)).all(axis=2)
        result: Result = {"queries": len(points), "started": inside.any(axis=1)}
        if explained.is_peak is not None:
            result["peaks on objects"] = inside.any(axis=0)[explained.is_peak.cpu().numpy()]
        result["moves"] = centre_errors(moves, boxes, item["image"].shape[1:])
        if explained.num_objects is not None:
            result["count"] = explained.num_objects
            result["sum"] = float(explained.density.sum())
        if explained.class_count is not None:
            result["class count"] = explained.class_count
        if explained.tokens is not None:
            cells = sum(level.numel() for level in explained.tokens)
            result["tokens"] = sum(int(level.sum()) for level in explained.tokens) / cells
        if explained.routing_weights is not None and "tiny" in explained.categories:
            result["gate"] = _gate(explained, boxes, item["image"].shape[1:], self.model.strides)
        result["seconds"] = min(self._seconds(item) for _ in range(calls)) if calls else None
        self.images.append(result)

    def _seconds(self, item: Result) -> float:
        start = time.perf_counter()
        self.model([item])
        return time.perf_counter() - start


@contextmanager
def recorded_moves(selection: Any) -> Iterator[list[np.ndarray]]:
    """Record the centres of boxes before and after the head of the encoder, two (Q, 2) in shares of the image.

    They are the head's, also of peaks that start from the box of their cell.
    """
    moves: list[np.ndarray] = []
    predict = selection.predict_boxes

    def record(features: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        refined: torch.Tensor = predict(features, boxes)
        moves.extend(x[0, :, :2].double().numpy() for x in (boxes, refined))
        return refined

    selection.predict_boxes = record
    try:
        yield moves
    finally:
        del selection.predict_boxes


def centre_errors(moves: Sequence[np.ndarray], boxes: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return distances in px, before and after the head, to the centre of the object that a cell's centre lies in.

    Args:
        moves: two (Q, 2) centres x, y in shares of the image.
        boxes: (G, 4) x, y, w, h of the objects in px.
        size: height and width of the image in px.

    Returns:
        (N, 2) of the N queries that start in an object; of several the one whose centre is nearest.
    """
    points = np.stack(moves) * np.array(size[::-1])
    if not len(boxes):
        return np.zeros((0, 2))
    centres, start = boxes[:, :2] + boxes[:, 2:] / 2, points[0][:, None]
    inside = ((start >= boxes[:, :2]) & (start <= boxes[:, :2] + boxes[:, 2:])).all(axis=2)
    distance = np.linalg.norm(points[:, :, None] - centres, axis=3)
    nearest = np.where(inside, distance[0], np.inf).argmin(axis=1)
    rows = np.flatnonzero(inside.any(axis=1))
    found: np.ndarray = distance[:, rows, nearest[rows]].T
    return found


def _gate(
    explained: Explanation, boxes: np.ndarray, size: tuple[int, int], strides: Sequence[int] | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each level the share of the category ``tiny`` in its cells, and which of them tiny objects cover."""
    names = [name for members in explained.categories.values() for name in members]
    own = [names.index(name) for name in explained.categories["tiny"]]
    scale = torch.tensor(size[::-1]).repeat(2)
    shares = torch.as_tensor(np.concatenate((boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]), axis=1)).float() / scale
    levels = []
    for level, weights in enumerate(explained.routing_weights or []):
        rows, columns = weights.shape[1:]
        # The image may end inside the last cell.
        extent = (columns, rows) if strides is None else (size[1] / strides[level], size[0] / strides[level])
        covered = covered_by_tiny(shares, size, (rows, columns), TINY, torch.tensor(extent).float())
        levels.append((weights[own].sum(dim=0).flatten().numpy(), covered.flatten().numpy()))
    return levels


def _auc(values: np.ndarray, positive: np.ndarray) -> float:
    """Return the probability that a positive has the larger value."""
    rank, count = rankdata(values), int(positive.sum())
    return float((rank[positive].sum() - count * (count + 1) / 2) / max(count * (len(values) - count), 1))


def summary(images: list[Result], sides: list[np.ndarray]) -> Result:
    """Return means over the images; ``sides`` holds √(w·h) of each image's objects in px."""
    numbers = np.array([len(s) for s in sides])
    means: Result = {
        "seconds": round(statistics.mean(i["seconds"] for i in images), 4) if images[0]["seconds"] else None,
        "queries": round(statistics.mean(i["queries"] for i in images), 1),
    }
    for name, (low, high) in GROUPS.items():
        part = [i["queries"] for i, n in zip(images, numbers, strict=True) if low <= n < high]
        means[f"queries, {name}"] = round(statistics.mean(part), 1) if part else None
    side, started = np.concatenate(sides), np.concatenate([i["started"] for i in images])
    means |= by_size("started inside", side, started)
    if "peaks on objects" in images[0]:
        peaks = np.concatenate([i["peaks on objects"] for i in images])
        means["queries at peaks"] = round(len(peaks) / len(images), 1)
        means["peaks on objects"] = round(float(peaks.mean()), 3) if len(peaks) else None
    moves = np.concatenate([i["moves"] for i in images])
    for column, name in enumerate(("px from cell to object", "px from box to object")):
        means[name] = round(float(moves[:, column].mean()), 2) if len(moves) else None
    for key, name in (("count", "count"), ("sum", "sum of the density"), ("class count", "count by classes")):
        if key in images[0]:
            error = np.array([i[key] for i in images]) - numbers
            means[f"error of the {name}"] = round(float(np.abs(error).mean()), 2)
            means[f"bias of the {name}"] = round(float(error.mean()), 2)
    means["error of the best constant"] = round(float(np.abs(numbers - np.median(numbers)).mean()), 2)
    for level in range(len(images[0].get("gate", []))):
        share, covered = (np.concatenate([i["gate"][level][part] for i in images]) for part in (0, 1))
        means[f"gate of tiny, level {level}, AUC"] = round(_auc(share, covered), 3)
        means[f"gate of tiny, level {level}, share at tiny objects"] = round(float(share[covered].mean()), 3)
        means[f"gate of tiny, level {level}, share elsewhere"] = round(float(share[~covered].mean()), 3)
    if "tokens" in images[0]:
        tokens = np.array([i["tokens"] for i in images])
        means["tokens"] = round(float(tokens.mean()), 3)
        for name, (low, high) in GROUPS.items():
            of_group = (numbers >= low) & (numbers < high)
            means[f"tokens, {name}"] = round(float(tokens[of_group].mean()), 3) if of_group.any() else None
    return means


def main() -> None:
    """Measure all runs, print a table and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, of models on the same data set")
    parser.add_argument("--output", required=True, help="file in results/")
    parser.add_argument("--queries", type=int, help="queries of all models for every image")
    parser.add_argument("--calls", type=int, default=3, help="calls of each model for each image; 0 measures no time")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = {folder.name: MeasuredRun(folder, args.queries) for folder in args.runs}
    test = next(iter(runs.values())).cfg.dataloader.test
    sides: list[np.ndarray] = []
    for item, boxes in images_with_boxes(test, args.every):
        sides.append(np.sqrt(boxes[:, 2] * boxes[:, 3]))
        for run in runs.values():
            run.measure(item, boxes, args.calls)
    means = {name: summary(run.images, sides) | {"settings": run.settings} for name, run in runs.items()}
    print_table("model", means)
    write_record(RESULTS / args.output, images=len(sides), calls=args.calls, rows=means)


if __name__ == "__main__":
    main()
