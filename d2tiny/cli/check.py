"""``d2tiny check``: list everything that is wrong in a dataset."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from d2tiny.cli.common import add_stretch_option, refuse_original
from d2tiny.cli.convert import FORMATS, add_source_options, convert_given, print_findings
from d2tiny.utils.errors import ConfigError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny check instances_val.json --images val --fix clean/instances_val.json"
# Options that say how to read a native format.
_FORMAT_OPTIONS = (
    "labels",
    "split",
    "classes",
    "rename",
    "ignore_classes",
    "drop_classes",
    "where",
    "area",
    "difficult",
    "cut",
    "minus_one",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", type=Path, help="COCO json, or a folder with --format")
    parser.add_argument("--format", choices=tuple(FORMATS), help="the files are in this format")
    parser.add_argument("--decode", action="store_true", help="decode every image: finds damage in the pixel data")
    parser.add_argument("--fix", type=Path, metavar="JSON", help="write a clean copy; the original is never touched")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings as json, too")
    add_stretch_option(parser)
    add_source_options(parser)


def run(args: argparse.Namespace) -> int:
    """Check, and write what was asked for; the exit code is 1 if there are errors."""
    from d2tiny.data.coco.check import check_dataset, check_json
    from d2tiny.data.coco.writer import write_coco
    from d2tiny.utils.files import write_text

    refuse_original("--fix", args.fix, args.source)
    refuse_original("--json", args.json, args.source)
    if args.format is None:
        for key in _FORMAT_OPTIONS:
            if getattr(args, key):
                raise ConfigError(
                    f"--{key.replace('_', '-')} goes with --format only; a COCO json is checked as it is."
                )
        checked = check_json(args.source, args.images, decode=args.decode, stretch=args.stretch)
    else:
        converted = convert_given(args, args.format)
        checked = check_dataset(
            converted.data, converted.root, converted.findings, decode=args.decode, stretch=args.stretch
        )
    print_findings(checked.findings)
    if args.json:
        write_text(args.json, json.dumps(checked.findings.to_dict(), indent=1) + "\n")
    if args.fix:
        clean = checked.clean
        write_coco(clean, args.fix)
        print(f"{args.fix}: {len(clean['images'])} images, {len(clean['annotations'])} annotations are left")
    return 1 if checked.findings.count("error") else 0
