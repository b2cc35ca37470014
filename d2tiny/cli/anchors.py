"""``d2tiny anchors``: fit YOLOv5's anchors to objects."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny anchors instances_train.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", type=Path, help="COCO json")
    parser.add_argument("--levels", type=int, default=3, metavar="N", help="of the pyramid (default %(default)s)")
    parser.add_argument("--per-level", type=int, default=3, metavar="N", help="anchors of each (default %(default)s)")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="S", help="by which images are resized (default %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the clustering's restarts (default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Fit, and print the anchors beside those for tiny objects."""
    from d2tiny.data.coco.arrays import load_ground_truth
    from d2tiny.data.tools.anchors import TINY_ANCHORS, anchor_recall, fit_anchors

    truth = load_ground_truth(args.source)
    sizes = truth.boxes[~truth.ignore][:, 2:] * args.scale
    sizes = sizes[(sizes >= 1).all(axis=1)]  # smaller ones are not learned
    fit = fit_anchors(sizes, levels=args.levels, per_level=args.per_level, seed=args.seed)
    for title, anchors, recall, ratio in (
        ("fitted", fit.anchors, fit.recall, fit.ratio),
        ("tiny set", TINY_ANCHORS, *anchor_recall(sizes, TINY_ANCHORS)),
    ):
        print(f"{title:>9}  {recall:7.2%} of {len(sizes):,} objects match an anchor, best ratio {ratio:.2f} on average")
        for level, row in enumerate(anchors.tolist()):
            print(f"{'':>9}  level {level + 1}: " + "  ".join(f"{w:g}x{h:g}" for w, h in row))
    print(fit.override())
    return 0
