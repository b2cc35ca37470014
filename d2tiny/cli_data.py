"""The `d2tiny` command: convert, check, stats, tile, augment, anchors, evaluate."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog

from d2tiny.cli import guarded
from d2tiny.config import load_config
from d2tiny.data.coco.arrays import load_ground_truth
from d2tiny.data.coco.check import check_dataset, check_json
from d2tiny.data.coco.findings import Findings
from d2tiny.data.coco.writer import write_coco
from d2tiny.data.datasets import DatasetSource, load_coco_like
from d2tiny.data.tools.anchors import TINY_ANCHORS, anchor_recall, fit_anchors
from d2tiny.data.tools.converters import FORMATS, Conversion, convert_dataset
from d2tiny.data.tools.preview import augmentation_sheet
from d2tiny.data.tools.statistics import size_table, summary, write_statistics
from d2tiny.data.tools.tiling import TileSettings, tile_dataset
from d2tiny.evaluation import PROTOCOLS, evaluate_arrays, format_table, get_protocol, load_detections, make_protocol
from d2tiny.evaluation.protocols import INFINITE
from d2tiny.evaluation.report import write_report
from d2tiny.utils.errors import ConfigError, D2TinyError
from d2tiny.utils.files import open_atomic, write_text

__all__ = ["EXAMPLES", "build_parser", "main"]

# One working example for each command; the tests run them beside the folder that they name.
EXAMPLES = {
    "convert": "d2tiny convert visdrone VisDrone2019-DET-val --output visdrone/annotations/visdrone_val.json",
    "check": "d2tiny check instances_val.json --images val --fix clean/instances_val.json",
    "stats": "d2tiny stats instances_val.json --images val --output output/stats",
    "tile": "d2tiny tile instances_val.json --images val --output output/tiles --size 256 --overlap 64",
    "anchors": "d2tiny anchors instances_train.json",
    "augment": "d2tiny augment instances_val.json --images val --output output/augmentations.jpg",
    "evaluate": "d2tiny evaluate predictions.json instances_val.json --images val --report output/report",
}
_COVERAGE_CONFIGS = (
    "aitod/faster_rcnn_r50_fpn_maxiou_1x",
    "quick/faster_rcnn_r18_fpn_maxiou_a8",
    "aitod/faster_rcnn_r50_fpn_rfla_1x",
)

Action = Callable[[argparse.Namespace], int]


def _pair(text: str) -> tuple[str, str]:
    name, equal, value = text.partition("=")
    if not equal or not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} must look like NAME=VALUE")
    return name.strip(), value.strip()


def _areas(text: str) -> dict[str, tuple[float, float]]:
    """``vt=0:64,t=64:256`` in px²; an open end is infinite."""
    result: dict[str, tuple[float, float]] = {}
    for part in text.split(","):
        label, bounds = _pair(part)
        low, colon, high = bounds.partition(":")
        try:
            if not colon:
                raise ValueError("no colon")
            if label in result:
                raise argparse.ArgumentTypeError(f"area bin {label!r} is given twice")
            result[label] = (float(low or 0), float(high or INFINITE))
        except ValueError as err:
            raise argparse.ArgumentTypeError(f"{part!r} must look like NAME=LOW:HIGH, in px²") from err
    return result


def _list(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in _list(text)]
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"{text!r} must be numbers with commas between") from err


def _whole_numbers(text: str) -> list[int]:
    numbers = _numbers(text)
    if not all(v.is_integer() for v in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} must be whole numbers")
    return [int(v) for v in numbers]


def _add_source_options(parser: argparse.ArgumentParser) -> None:
    """What `convert` and `check --format` share."""
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the images")
    parser.add_argument("--labels", type=Path, metavar="DIR", help="folder of the label files")
    parser.add_argument("--split", metavar="NAME", help="list in ImageSets/Main (voc, dior)")
    parser.add_argument("--classes", type=_list, metavar="A,B", help="names in the order of their ids")
    parser.add_argument(
        "--rename", type=_pair, action="append", default=[], metavar="OLD=NEW", help="call a class otherwise"
    )
    parser.add_argument(
        "--ignore-classes", type=_list, default=[], metavar="A,B", help="neither learned nor punished"
    )  # fmt: skip
    parser.add_argument("--area", choices=("polygon", "hbb"), help="dota: area of the polygon (default) or of its box")
    parser.add_argument("--difficult", choices=("keep", "ignore", "drop"), help="dota: difficult objects (keep)")
    parser.add_argument("--cut", choices=("keep", "ignore", "drop"), help="dota: objects cut by its splitter (ignore)")
    parser.add_argument(
        "--minus-one", action="store_const", const=True, help="voc, dior: pixels count from 1; subtract 1"
    )


def _not_the_original(option: str, path: Path | None, source: Path) -> None:
    if path is not None and path.resolve() == source.resolve():
        raise ConfigError(f"{option} {path} is the original, which is never touched; name another file.")


def _existing_folder(path: Path | None) -> None:
    if path is not None and not path.is_dir():
        raise ConfigError(f"--images {path}: no such folder.")


def _convert_given(args: argparse.Namespace, name: str) -> Conversion:
    options: dict[str, Any] = {}
    for key in ("images", "labels", "split", "area", "difficult", "cut", "minus_one"):
        value = getattr(args, key)
        if value is not None:
            options[key] = value
    return convert_dataset(
        name,
        args.source,
        classes=args.classes,
        rename=dict(args.rename),
        ignore_classes=args.ignore_classes,
        **options,
    )


def _report(findings: Findings) -> None:
    print(findings.table() if findings else "Nothing is wrong.")
    if findings:
        counts = ", ".join(f"{findings.count(s)} {s}s" for s in ("error", "warning", "note"))
        print(f"\n{counts}")


def _convert(args: argparse.Namespace) -> int:
    _not_the_original("--output", args.output, args.source)
    result = _convert_given(args, args.format)
    if result.findings:
        _report(result.findings)
    write_coco(result.data, args.output)
    print(f"{args.output}: {result.summary()}; file names are relative to {result.root}")
    print(f"Next: d2tiny check {args.output} --images {shlex.quote(str(result.root))}  (looks at the images, too)")
    return 0


def _check(args: argparse.Namespace) -> int:
    _not_the_original("--fix", args.fix, args.source)
    _not_the_original("--json", args.json, args.source)
    if args.format is None:
        for key in ("labels", "split", "classes", "rename", "ignore_classes", "area", "difficult", "cut", "minus_one"):
            if getattr(args, key):
                raise ConfigError(
                    f"--{key.replace('_', '-')} goes with --format only; a COCO json is checked as it is."
                )
        checked = check_json(args.source, args.images, decode=args.decode)
    else:
        converted = _convert_given(args, args.format)
        checked = check_dataset(converted.data, converted.root, converted.findings, decode=args.decode)
    _report(checked.findings)
    if args.json:
        write_text(args.json, json.dumps(checked.findings.to_dict(), indent=1) + "\n")
    if args.fix:
        clean = checked.clean
        write_coco(clean, args.fix)
        print(f"{args.fix}: {len(clean['images'])} images, {len(clean['annotations'])} annotations are left")
    return 1 if checked.findings.count("error") else 0


def _stats(args: argparse.Namespace) -> int:
    _existing_folder(args.images)
    truth = load_ground_truth(args.source)
    areas = make_protocol(args.protocol, areas=args.areas).areas or get_protocol("aitod").areas
    print("\n".join(f"{name:>18}  {value}" for name, value in summary(truth).items()))
    table = size_table(truth, areas)
    print(
        f"{'objects by size':>18}  " + ", ".join(f"{n} {c:,}" for n, c in zip(areas, table.sum(axis=0), strict=False))
    )
    coverages, sample = [], truth
    if args.coverage:
        from d2tiny.analysis.coverage import (
            config_coverage,  # builds parts of models: slow to import, not always wanted
        )

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
    write_statistics(
        truth,
        areas,
        args.output,
        images=args.images,
        coverages=coverages,
        sample=sample,
        title=f"Dataset: {args.source.name}",
    )
    print(f"Page: {args.output / 'index.html'}")
    return 0


def _tile(args: argparse.Namespace) -> int:
    _existing_folder(args.images)
    settings = TileSettings(args.size, args.overlap, args.keep, args.cut, args.empty, args.suffix)
    data = tile_dataset(args.source, args.images, args.output, settings, jobs=args.jobs)
    ignored = sum(a["iscrowd"] for a in data["annotations"])
    print(
        f"{args.output / 'instances.json'}: {len(data['images'])} tiles, {len(data['annotations']) - ignored} objects, "
        f"{ignored} ignored; images in {args.output / 'images'}"
    )
    return 0


def _augment(args: argparse.Namespace) -> int:
    _existing_folder(args.images)
    if args.output.suffix not in (".jpg", ".png"):
        raise ConfigError(f"--output {args.output}: the name must end with .jpg or .png.")
    records = load_coco_like(DatasetSource("preview", (str(args.source.resolve()),), (str(args.images.resolve()),)))
    steps = None
    if args.config:
        cfg = load_config(args.config)
        steps = {args.config: instantiate(cfg.dataloader.train.mapper)}
    sheet = augmentation_sheet(
        records, MetadataCatalog.get("preview").thing_classes, steps, samples=args.samples, seed=args.seed
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(args.output.suffix, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    with open_atomic(args.output) as file:
        file.write(data.tobytes())
    print(f"Picture: {args.output}")
    return 0


def _anchors(args: argparse.Namespace) -> int:
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


def _evaluate(args: argparse.Namespace) -> int:
    _existing_folder(args.images)
    started = time.perf_counter()
    protocol = make_protocol(args.protocol, max_dets=args.max_dets, areas=args.areas, extra_ious=args.extra_ious)
    truth = load_ground_truth(args.truth)
    found = load_detections(args.source, truth)
    if args.report:
        title = f"{args.source.name} against {args.truth.name}"
        metrics = write_report(truth, found, protocol, args.report, images=args.images, title=title)
    else:
        metrics = evaluate_arrays(truth, found, protocol).metrics()
    print(format_table(metrics))
    print(f"\n{protocol.name} protocol, {len(found):,} detections, {time.perf_counter() - started:.1f} s")
    if args.report:
        print(f"Report: {args.report / 'index.html'}")
    return 0


def _command(commands: Any, name: str, summary_line: str, action: Action) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary_line,
        description=summary_line,
        epilog=f"example:\n  {EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # keeps the example on one line
    )
    parser.set_defaults(action=action)
    return parser


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the `d2tiny` command."""
    parser = argparse.ArgumentParser(prog="d2tiny", description="Data and evaluation for tiny-object detection.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    formats = "; ".join(f"{name}: {entry.help}" for name, entry in FORMATS.items())

    convert = _command(commands, "convert", "Turn a benchmark's own files into COCO json.", _convert)
    convert.add_argument("format", choices=tuple(FORMATS), help=formats)
    convert.add_argument("source", type=Path, help="folder of the dataset, or json")
    convert.add_argument("--output", "-o", type=Path, required=True, metavar="JSON")
    _add_source_options(convert)

    check = _command(commands, "check", "List everything that is wrong in a dataset; exit code 1 on errors.", _check)
    check.add_argument("source", type=Path, help="COCO json, or a folder with --format")
    check.add_argument("--format", choices=tuple(FORMATS), help="the files are in this format")
    check.add_argument("--decode", action="store_true", help="decode every image: finds damage in the pixel data")
    check.add_argument("--fix", type=Path, metavar="JSON", help="write a clean copy; the original is never touched")
    check.add_argument("--json", type=Path, metavar="FILE", help="write the findings as json, too")
    _add_source_options(check)

    stats = _command(commands, "stats", "Count sizes, classes, density, and what detectors can learn from.", _stats)
    stats.add_argument("source", type=Path, help="COCO json")
    stats.add_argument("--images", type=Path, metavar="DIR", help="folder of the images, for pictures")
    stats.add_argument("--output", "-o", type=Path, required=True, metavar="DIR", help="gets index.html")
    stats.add_argument(
        "--coverage",
        type=_list,
        default=list(_COVERAGE_CONFIGS),
        metavar="A,B",
        help="configs whose anchors and assigner are tried; '' tries none (default: baselines and RFLA)",
    )
    stats.add_argument(
        "--coverage-images",
        type=int,
        default=300,
        metavar="N",
        help="try them on so many images, drawn at random (default %(default)s)",
    )
    _add_protocol_options(stats)

    tile = _command(commands, "tile", "Cut large images into tiles; goes on where stopped.", _tile)
    tile.add_argument("source", type=Path, help="COCO json")
    tile.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
    tile.add_argument("--output", "-o", type=Path, required=True, metavar="DIR", help="gets images/, instances.json")
    tile.add_argument(
        "--size", type=int, default=TileSettings.size, metavar="PX", help="side of a tile (default %(default)s)"
    )
    tile.add_argument(
        "--overlap", type=int, default=TileSettings.overlap, metavar="PX", help="of neighbours (default %(default)s)"
    )
    tile.add_argument(
        "--keep",
        type=float,
        default=TileSettings.keep,
        metavar="S",
        help="share inside to be learned (default %(default)s)",
    )
    tile.add_argument(
        "--cut", choices=("ignore", "drop"), default="ignore", help="objects with less inside (default %(default)s)"
    )
    tile.add_argument(
        "--empty", choices=("keep", "drop"), default="keep", help="tiles without anything (default %(default)s)"
    )
    tile.add_argument("--suffix", choices=(".png", ".jpg"), default=".png", help="of the tiles (default %(default)s)")
    tile.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="images cut at the same time (default %(default)s)"
    )

    augment = _command(commands, "augment", "Draw what augmentations do to your tiles.", _augment)
    augment.add_argument("source", type=Path, help="COCO json")
    augment.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the images")
    augment.add_argument("--output", "-o", type=Path, required=True, metavar="FILE", help="picture, .jpg or .png")
    augment.add_argument("--config", metavar="X", help="show the training augmentations of a config instead")
    augment.add_argument("--samples", type=int, default=4, metavar="N", help="columns (default 4)")
    augment.add_argument("--seed", type=int, default=0, metavar="S", help="of the random choices (default 0)")

    anchors = _command(commands, "anchors", "Fit YOLOv5's anchors to your objects.", _anchors)
    anchors.add_argument("source", type=Path, help="COCO json")
    anchors.add_argument("--levels", type=int, default=3, metavar="N", help="of the pyramid (default %(default)s)")
    anchors.add_argument("--per-level", type=int, default=3, metavar="N", help="anchors of each (default %(default)s)")
    anchors.add_argument(
        "--scale", type=float, default=1.0, metavar="S", help="by which images are resized (default %(default)s)"
    )
    anchors.add_argument("--seed", type=int, default=0, metavar="S", help="of the starts (default %(default)s)")

    evaluate = _command(commands, "evaluate", "Evaluate COCO results, with an error report.", _evaluate)
    evaluate.add_argument("source", type=Path, metavar="predictions", help="COCO result json")
    evaluate.add_argument("truth", type=Path, metavar="ground_truth", help="COCO json")
    evaluate.add_argument("--report", type=Path, metavar="DIR", help="write one HTML page with the error analysis")
    evaluate.add_argument("--images", type=Path, metavar="DIR", help="folder of the images, for the worst tiles")
    evaluate.add_argument(
        "--max-dets", type=_whole_numbers, metavar="A,B", help="detections of an image and class that count"
    )
    evaluate.add_argument(
        "--extra-ious", type=_numbers, metavar="T", help="thresholds reported besides, such as 0.25"
    )  # fmt: skip
    _add_protocol_options(evaluate)
    return parser


def _add_protocol_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="aitod", help="default: aitod")
    parser.add_argument("--areas", type=_areas, metavar="N=LOW:HIGH,...", help="own area bins in px²")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `d2tiny` command; returns the exit code."""
    args = build_parser().parse_args(argv)
    codes: list[int] = []

    def action() -> None:
        try:
            codes.append(args.action(args))
        except (ImportError, OSError) as err:  # a missing extra, a full disk, a folder without rights
            raise D2TinyError(str(err)) from err

    return guarded(action) or codes[0]


if __name__ == "__main__":
    sys.exit(main())
