"""``d2tiny draw``: draw aerial scenes with boxes, to train on."""

from __future__ import annotations

import argparse

from d2tiny.cli.common import add_output_option

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny draw --output output/scenes --train 40 --val 10"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; the defaults are those of ``write_dataset``."""
    add_output_option(parser, "gets instances_{train,val}.json, train/, val/")
    parser.add_argument("--train", type=int, default=800, metavar="N", help="scenes to train on (default %(default)s)")
    parser.add_argument("--val", type=int, default=100, metavar="N", help="scenes to test on (default %(default)s)")
    parser.add_argument("--size", type=int, default=256, metavar="PX", help="side of a scene (default %(default)s)")
    parser.add_argument(
        "--density", type=float, default=1.0, metavar="D", help="objects, relative to a usual scene (default 1)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="other seeds have no scene in common (default %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Draw what is not there yet."""
    from d2tiny.data.coco.document import read_coco_json
    from d2tiny.synthetic import write_dataset

    paths = write_dataset(
        args.output,
        train=args.train,
        val=args.val,
        height=args.size,
        width=args.size,
        density=args.density,
        seed=args.seed,
        progress=True,
    )
    for split in ("train", "val"):
        data = read_coco_json(paths[f"{split}_json"])
        print(f"{paths[f'{split}_json']}: {len(data['images'])} scenes, {len(data['annotations'])} objects")
    return 0
