"""``d2tiny stats``: count sizes, classes, density, and what detectors can learn from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from d2tiny.cli.common import (
    add_images_option,
    add_output_option,
    add_protocol_options,
    add_stretch_option,
    comma_list,
    require_folder,
)
from d2tiny.utils.errors import ConfigError

if TYPE_CHECKING:
    from d2tiny.analysis.coverage import Coverage
    from d2tiny.data.coco.arrays import GroundTruth

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny stats instances_val.json --images val --output output/stats"
_COVERAGE_CONFIGS = (
    "quick/faster_rcnn_lite0_fpn_maxiou",
    "quick/faster_rcnn_lite0_fpn_maxiou_a8",
    "quick/faster_rcnn_lite0_fpn_rfla",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", type=Path, help="COCO json")
    add_images_option(parser, "folder of the images, for pictures")
    add_output_option(parser, "gets index.html")
    add_stretch_option(parser)
    parser.add_argument(
        "--coverage",
        type=comma_list,
        default=list(_COVERAGE_CONFIGS),
        metavar="A,B",
        help="configs whose anchors and assigner are tried; '' tries none (default: baselines and RFLA)",
    )
    parser.add_argument(
        "--coverage-images",
        type=int,
        default=300,
        metavar="N",
        help="try them on so many images, drawn at random (default %(default)s)",
    )
    add_protocol_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the numbers and write the page."""
    from d2tiny.data.coco.arrays import load_ground_truth
    from d2tiny.data.tools.statistics import size_table, summary, write_statistics
    from d2tiny.evaluation import get_protocol, make_protocol

    require_folder(args.images)
    truth = load_ground_truth(args.source)
    areas = make_protocol(args.protocol, areas=args.areas).areas or get_protocol("aitod").areas
    print("\n".join(f"{name:>18}  {value}" for name, value in summary(truth).items()))
    counts = size_table(truth, areas).sum(axis=0)
    print(f"{'objects by size':>18}  " + ", ".join(f"{n} {c:,}" for n, c in zip(areas, counts, strict=False)))
    sample, coverages = _coverages(args, truth) if args.coverage else (truth, [])
    write_statistics(
        truth,
        areas,
        args.output,
        images=args.images,
        coverages=coverages,
        sample=sample,
        title=f"Dataset: {args.source.name}",
        stretch=args.stretch,
    )
    print(f"Page: {args.output / 'index.html'}")
    return 0


def _coverages(args: argparse.Namespace, truth: GroundTruth) -> tuple[GroundTruth, list[Coverage]]:
    """Try the configs' anchors on images drawn at random; returns these images and the coverages."""
    import numpy as np

    from d2tiny.analysis.coverage import config_coverage

    if not truth.sizes.all():
        raise ConfigError(f"{args.source}: images without a size; `d2tiny check` lists them. Or: --coverage ''")
    images = np.random.default_rng(0).permutation(len(truth.image_ids))[: args.coverage_images]
    sample = truth.with_images(truth.image_ids[images].tolist())
    boxes, sizes = sample.boxes_by_image(), [(int(w), int(h)) for w, h in sample.sizes]
    coverages = [config_coverage(name, boxes, sizes, progress=True) for name in args.coverage]
    for coverage in coverages:
        lost = int(coverage.unserved.sum())
        print(
            f"{'without positives':>18}  {lost:,} of {coverage.objects:,} objects in {len(sizes):,} images "
            f"({coverage.name})"
        )
    return sample, coverages
