#!/usr/bin/env python
"""Ask how far differences between trained models depend on which images they are tested on.

Validation images are drawn with replacement, as many as there are, and all models evaluated on each draw (a paired
bootstrap, Efron and Tibshirani 1993, chapter 13). The record has, for each model and metric, the difference to the
first model and the 95 % interval of its draws. It says nothing of what another seed of the training would give. Seeds
of one configuration that are joined by a comma are one model, of which the mean counts.

    python benchmarks/bootstrap.py /data/aerial/instances_val.json output/quick_table/aerial/rfla_seed0 \
        output/quick_table/aerial/cem_seed0 --output cem.json
    python benchmarks/bootstrap.py /data/aerial/instances_val.json output/dino_seed0,output/dino_seed1 \
        output/dgq_seed0,output/dgq_seed1 --output dgq.json
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import make_parser, write_record

if TYPE_CHECKING:
    from d2tiny.data.coco.arrays import GroundTruth
    from d2tiny.evaluation import Detections

METRICS = ("AP", "AP50", "AP75", "APvt", "APt", "APs")
PROTOCOL = "aitod"


def places(owner: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which entries belong to the drawn images, and to which of them.

    Args:
        owner: (N,) the image of each entry.
        drawn: (I,) images; one may occur several times or never.

    Returns:
        (M,) indices into ``owner`` and (M,) indices into ``drawn``; entries of an image keep their order.
    """
    order = np.argsort(owner, kind="stable")
    start, end = (np.searchsorted(owner[order], drawn, side) for side in ("left", "right"))
    counts = end - start
    copy = np.repeat(np.arange(len(drawn)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.repeat(start, counts) + within], copy.astype(owner.dtype)


def resampled(truth: GroundTruth, found: list[Detections], drawn: np.ndarray) -> tuple[GroundTruth, list[Detections]]:
    """Return the drawn images, each as one of its own, and what models found in them."""
    objects, image = places(truth.image, drawn)
    regions, region_image = places(truth.region_image, drawn)
    new = replace(
        truth.select(objects),
        image_ids=np.arange(len(drawn)),
        image=image,
        region_image=region_image,
        regions=truth.regions[regions],
        region_drops=truth.region_drops[regions],
        file_names=tuple(truth.file_names[i] for i in drawn),
        sizes=truth.sizes[drawn],
    )
    chosen = []
    for detections in found:
        entries, image = places(detections.image, drawn)
        chosen.append(replace(detections.select(entries), image=image))
    return new, chosen


def differences(truth: GroundTruth, models: list[list[Detections]], draws: int) -> np.ndarray:
    """Return the metrics of each model but the first minus those of the first, on each draw.

    Args:
        truth: the objects of the validation images.
        models: what the seeds of each model found.
        draws: number of draws.

    Returns:
        (draws + 1, models - 1, metrics); the first entry is that of the images as they are.
    """
    from d2tiny.evaluation import evaluate_arrays, get_protocol

    protocol, random = get_protocol(PROTOCOL), np.random.default_rng(0)
    images = len(truth.image_ids)
    ends, values = np.cumsum([len(seeds) for seeds in models])[:-1], []
    for draw in range(draws + 1):
        drawn = random.integers(0, images, images) if draw else np.arange(images)
        sample, found = resampled(truth, [detections for seeds in models for detections in seeds], drawn)
        rows = [evaluate_arrays(sample, detections, protocol).metrics() for detections in found]
        metrics = np.array([[row[metric] for metric in METRICS] for row in rows])
        means = [seeds.mean(axis=0) for seeds in np.split(metrics, ends)]
        values.append(np.stack(means[1:]) - means[0])
        if draw % 50 == 0:
            print(f"{draw} of {draws} draws", file=sys.stderr)
    return np.stack(values)


def summary(values: np.ndarray) -> dict[str, list[float]]:
    """Return the difference and the limits of its 95 % interval for each metric, from (draws + 1, metrics)."""
    low, high = np.nanpercentile(values[1:], (2.5, 97.5), axis=0)
    rows = np.stack((values[0], low, high), axis=1).round(2).tolist()
    return dict(zip(METRICS, rows, strict=True))


def main() -> None:
    """Evaluate all draws and write the record."""
    parser = make_parser(__doc__)
    parser.add_argument("annotations", type=Path, help="json of the validation images")
    parser.add_argument("models", nargs="+", metavar="RUN[,RUN]", help="output folders of trainings")
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--output", type=Path, required=True, help="json to write")
    args = parser.parse_args()
    if len(args.models) < 2:
        parser.error("needs at least two models")
    from d2tiny.data.coco.arrays import load_ground_truth
    from d2tiny.evaluation import load_detections

    truth = load_ground_truth(args.annotations)
    runs = [[Path(run) for run in model.split(",")] for model in args.models]
    found = [
        [load_detections(run / "inference" / "coco_instances_results.json", truth) for run in seeds] for seeds in runs
    ]
    values = differences(truth, found, args.draws)
    names = ["+".join(run.name for run in seeds) for seeds in runs]
    rows = {name: summary(values[:, i]) for i, name in enumerate(names[1:])}
    fields = {"images": len(truth.image_ids), "draws": args.draws, "base": names[0]}
    write_record(args.output, **fields, **{"difference, low, high": rows})
    for name, row in rows.items():
        print(name, row)


if __name__ == "__main__":
    main()
