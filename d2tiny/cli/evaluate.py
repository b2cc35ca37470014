"""``d2tiny evaluate``: evaluate COCO results, with an error report."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from d2tiny.cli.common import add_images_option, add_protocol_options, integers, numbers, require_folder

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny evaluate predictions.json instances_val.json --images val --report output/report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", type=Path, metavar="predictions", help="COCO result json")
    parser.add_argument("truth", type=Path, metavar="ground_truth", help="COCO json")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write one HTML page with the error analysis")
    add_images_option(parser, "folder of the images, for the worst tiles")
    parser.add_argument("--max-dets", type=integers, metavar="A,B", help="detections of an image and class that count")
    parser.add_argument("--extra-ious", type=numbers, metavar="T", help="thresholds reported besides, such as 0.25")
    add_protocol_options(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table and write the report."""
    from d2tiny.data.coco.arrays import load_ground_truth
    from d2tiny.evaluation import evaluate_arrays, format_table, load_detections, make_protocol
    from d2tiny.utils.compiled import COMPILING
    from d2tiny.utils.logs import messages_shown

    require_folder(args.images)
    started = time.perf_counter()
    protocol = make_protocol(args.protocol, max_dets=args.max_dets, areas=args.areas, extra_ious=args.extra_ious)
    truth = load_ground_truth(args.truth)
    truth.require_objects(args.truth)
    found = load_detections(args.source, truth)
    with messages_shown(COMPILING):
        if args.report:
            from d2tiny.evaluation.report import write_report

            title = f"{args.source.name} against {args.truth.name}"
            metrics = write_report(truth, found, protocol, args.report, images=args.images, title=title)
        else:
            metrics = evaluate_arrays(truth, found, protocol).metrics()
    print(format_table(metrics))
    took = time.perf_counter() - started
    print(f"\n{protocol.name} protocol, {len(found):,} detections, {took:.1f} s. In percent; oLRP is an error.")
    if args.report:
        print(f"Report: {args.report / 'index.html'}")
    return 0
