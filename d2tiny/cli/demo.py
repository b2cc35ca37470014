"""``d2tiny demo``: train a small detector on drawn scenes and show what it finds."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from d2tiny.cli.common import add_output_option

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny demo --output output/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_output_option(parser, "gets the run, pictures and a page (default %(default)s)", default=Path("output/demo"))
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="one COCO json, or a folder with instances_train.json, instances_val.json, train/, val/ "
        "(default: drawn scenes)",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="of the images of a json (default: its own folder)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=8.0,
        metavar="M",
        help="in which it ends: the first iterations are measured, the rest is chosen to fit (default %(default)g)",
    )
    parser.add_argument(
        "--iterations", type=int, default=0, metavar="N", help="length of the training instead, however long it takes"
    )


def run(args: argparse.Namespace) -> int:
    """Train and draw."""
    started = time.monotonic()  # the imports take seconds
    from d2tiny.engine.quickstart import quickstart

    quickstart(args.output, args.data, args.iterations, images=args.images, minutes=args.minutes, started=started)
    return 0
