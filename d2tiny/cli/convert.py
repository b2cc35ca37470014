"""``d2tiny convert``: turn a benchmark's own files into COCO json."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2tiny.cli.common import (
    add_images_option,
    add_output_option,
    add_stretch_option,
    comma_list,
    name_value,
    refuse_original,
)
from d2tiny.utils.errors import ConfigError

if TYPE_CHECKING:
    from d2tiny.data.coco.findings import Findings
    from d2tiny.data.tools.converters import Conversion, Scaling

__all__ = ["EXAMPLE", "FORMATS", "add_arguments", "add_source_options", "convert_given", "print_findings", "run"]

EXAMPLE = "d2tiny convert visdrone VisDrone2019-DET-val --output visdrone/annotations/visdrone_val.json"
# Names of the formats, and what each expects.
FORMATS = {
    "visdrone": "VisDrone-DET: images/, annotations/*.txt",
    "dota": "DOTA v1.0-v2.0: images/, labelTxt/*.txt",
    "dior": "DIOR: JPEGImages-trainval/, JPEGImages-test/, Annotations/, ImageSets/",
    "hituav": "HIT-UAV: annotations/{train,val,test}.json, train/, val/, test/ (normal_json)",
    "voc": "Pascal VOC: JPEGImages/, Annotations/*.xml, ImageSets/",
    "yolo": "YOLO texts, beside the images or in labels/",
    "coco": "COCO json with odd keys, wrong areas, missing images; DTOD",
    "aitod": "COCO json with AI-TOD's eight classes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    formats = "; ".join(f"{name}: {line}" for name, line in FORMATS.items())
    parser.add_argument("format", choices=tuple(FORMATS), help=formats)
    parser.add_argument("source", type=Path, help="folder of the dataset, or json")
    add_output_option(parser, "COCO json to write", metavar="JSON")
    add_source_options(parser)
    _add_scale_options(parser)


def _add_scale_options(parser: argparse.ArgumentParser) -> None:
    """Add what makes the images smaller; the defaults are those of ``Scaling``."""
    parser.add_argument(
        "--scale", type=float, metavar="S", help="write smaller images, and boxes that fit them: 0.5 halves both sides"
    )
    parser.add_argument(
        "--scaled-images",
        type=Path,
        metavar="DIR",
        help="gets the smaller images (default: beside the json, named as the folder of the originals)",
    )
    add_stretch_option(parser)
    parser.add_argument("--jobs", type=int, metavar="N", help="images made smaller at the same time (default 2)")


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add what ``convert`` and ``check --format`` share."""
    add_images_option(parser, "folder of the images")
    parser.add_argument("--labels", type=Path, metavar="DIR", help="folder of the label files")
    parser.add_argument("--split", metavar="NAME", help="list in ImageSets/Main (voc, dior), json (hituav)")
    parser.add_argument("--classes", type=comma_list, metavar="A,B", help="names in the order of their ids")
    parser.add_argument(
        "--rename", type=name_value, action="append", default=[], metavar="OLD=NEW", help="call a class otherwise"
    )
    parser.add_argument(
        "--ignore-classes", type=comma_list, default=[], metavar="A,B", help="neither learned nor punished"
    )
    parser.add_argument(
        "--drop-classes", type=comma_list, default=[], metavar="A,B", help="left out: their objects are background"
    )
    parser.add_argument(
        "--where",
        type=name_value,
        action="append",
        default=[],
        metavar="KEY=GLOB",
        help="take images whose entry has such a value, such as 'source=KIT*' or 'file_name=s2_*'; several times: one "
        "glob of each key must fit",
    )
    parser.add_argument("--area", choices=("polygon", "hbb"), help="dota: area of the polygon (default) or of its box")
    parser.add_argument("--difficult", choices=("keep", "ignore", "drop"), help="dota: difficult objects (keep)")
    parser.add_argument("--cut", choices=("keep", "ignore", "drop"), help="dota: objects cut by its splitter (ignore)")
    parser.add_argument(
        "--lines", choices=("auto", "box", "polygon"), help="yolo: what follows the class (auto: what the numbers say)"
    )
    parser.add_argument(
        "--minus-one", action="store_const", const=True, help="voc, dior: pixels count from 1; subtract 1"
    )


def convert_given(args: argparse.Namespace, name: str, scaling: Scaling | None = None) -> Conversion:
    """Convert ``args.source`` from the format ``name``, with the options that were given."""
    from d2tiny.data.tools.converters import convert_dataset

    options: dict[str, Any] = {}
    for key in ("images", "labels", "split", "area", "difficult", "cut", "lines", "minus_one"):
        value = getattr(args, key)
        if value is not None:
            options[key] = value
    return convert_dataset(
        name,
        args.source,
        classes=args.classes,
        rename=dict(args.rename),
        ignore_classes=args.ignore_classes,
        drop_classes=args.drop_classes,
        where=args.where,
        scaling=scaling,
        **options,
    )


def _scaling(args: argparse.Namespace) -> Scaling | None:
    """Return what makes the images smaller, if that was asked for.

    Raises:
        ConfigError: an option of it has no meaning or no effect.
    """
    from d2tiny.data.tools.converters import Scaling

    more = {key: value for key in ("stretch", "jobs") if (value := getattr(args, key)) is not None}
    if args.scale is None:
        for key in ("scaled_images", *more):
            if getattr(args, key) is not None:
                raise ConfigError(f"--{key.replace('_', '-')} goes with --scale only; no images are written without.")
        return None
    if args.scaled_images is None:
        return Scaling(args.scale, args.output.parent, **more)
    folder = args.scaled_images.absolute()
    return Scaling(args.scale, folder.parent, folder.name, **more)


def print_findings(findings: Findings) -> None:
    """Print the table of what is wrong, and how much there is of each severity."""
    print(findings.table() if findings else "Nothing is wrong.")
    if findings:
        counts = ", ".join(f"{findings.count(s)} {s}s" for s in ("error", "warning", "note"))
        print(f"\n{counts}")


def run(args: argparse.Namespace) -> int:
    """Convert and write."""
    from d2tiny.data.coco.writer import write_coco

    refuse_original("--output", args.output, args.source)
    result = convert_given(args, args.format, _scaling(args))
    if result.findings:
        print_findings(result.findings)
    write_coco(result.data, args.output)
    print(f"{args.output}: {result.summary()}; file names are relative to {result.root}")
    if not result.data["annotations"] and result.findings.count("error") + result.findings.count("warning"):
        print("No object could be read: the list above says why.")
        return 1
    print(f"Next: d2tiny check {args.output} --images {shlex.quote(str(result.root))}  (looks at the images, too)")
    return 0
