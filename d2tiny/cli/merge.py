"""``d2tiny merge``: join the shards of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny merge found/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("output", type=Path, metavar="DIR", help="folder that all shards of d2tiny predict wrote to")


def run(args: argparse.Namespace) -> int:
    """Join; the exit code is 1 if scenes failed."""
    from d2tiny.cli.predict import tell_results
    from d2tiny.inference import merge_shards
    from d2tiny.utils.compiled import COMPILING
    from d2tiny.utils.logs import messages_shown

    with messages_shown(COMPILING):
        summary = merge_shards(args.output)
    tell_results(summary, args.output)
    return int(bool(summary.failed))
