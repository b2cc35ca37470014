#!/usr/bin/env python
"""Publish the final weights of a training: file in float16, entry in the manifest, model card.

The weights are evaluated on the test split of their config as they are and in float16; they are refused if that costs
more than 0.1 AP, if a licence does not permit it, or if the files become too large.

    python tools/publish_weights.py output/run --name thermal --title "People and vehicles in thermal images" \
        --data hituav efficientnet_lite0 --licence CC-BY-4.0 --images "thermal images from 60 to 130 m" \
        --not-for "Surveillance of single persons." --results results/hituav/faster_rcnn_lite0_fpn_rfla_seed*.json
    python tools/draw_failures.py thermal
    python tools/make_model_cards.py
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from d2tiny.cli.common import guarded
from d2tiny.utils.licences import PERMITTED, SOURCES
from d2tiny.utils.published import shipped_folder

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Publish, and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path, help="folder with model_final.pth and result.json")
    parser.add_argument("--name", required=True, help="what users type: small letters, digits, - and _")
    parser.add_argument("--title", required=True, help="one line, what is found and where")
    parser.add_argument("--data", nargs="+", required=True, choices=list(SOURCES), help="what it was trained on")
    parser.add_argument("--licence", required=True, choices=PERMITTED, help="of the weights")
    parser.add_argument("--images", required=True, help="what images it is made for")
    parser.add_argument("--not-for", action="append", default=[], metavar="SENTENCE", help="several times")
    parser.add_argument("--fails", action="append", default=[], metavar="SENTENCE", help="where, seen in pictures")
    parser.add_argument("--results", nargs="+", type=Path, default=[], help="records of all runs, for the spread")
    parser.add_argument(
        "--kind", choices=("grey", "colour"), default="", help="take these weights for such images where none are named"
    )
    parser.add_argument(
        "--split",
        nargs=2,
        action="append",
        default=[],
        metavar=("DATASET", "TEXT"),
        help="what a split has, for the card; others than that of the config are measured as well",
    )
    parser.add_argument("--default", action="store_true", help="take these weights where none are named")
    parser.add_argument("--folder", type=Path, default=shipped_folder(), help="default: %(default)s")
    parser.add_argument("--work", type=Path, help="for predictions; default: output/publish/NAME")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return guarded(lambda: _publish(args), output=args.folder)


def _publish(args: argparse.Namespace) -> int:
    from d2tiny.engine.publish import About, publish

    about = About(
        args.name,
        args.title,
        tuple(SOURCES[name] for name in args.data),
        args.licence,
        args.images,
        tuple(args.not_for),
        tuple(args.fails),
        args.kind,
        dict(args.split),
    )
    work = args.work or ROOT / "output" / "publish" / args.name
    entry = publish(args.training, about, args.folder, work, results=args.results, default=args.default)
    figures = ", ".join(f"{key} {entry.measured.metrics[key]}" for key in ("AP", "AP50"))
    print(f"{args.folder / entry.file}: {entry.size / 1e6:.2f} MB, {figures} on {entry.measured.dataset}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
