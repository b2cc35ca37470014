"""``d2tiny demo``: train a small detector on drawn scenes and show what it finds."""

from __future__ import annotations

import argparse
from pathlib import Path

from d2tiny.cli.common import add_output_option

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny demo --output output/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_output_option(parser, "gets the run, pictures and a report (default %(default)s)", default=Path("output/demo"))
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="instances_train.json, instances_val.json, train/, val/; default: drawn scenes",
    )
    parser.add_argument("--iterations", type=int, default=0, metavar="N", help="length of the training")


def run(args: argparse.Namespace) -> int:
    """Train and draw."""
    from d2tiny.engine.quickstart import quickstart

    quickstart(args.output, args.data, args.iterations)
    return 0
