"""Command lines in tests."""

from __future__ import annotations

import json
import shlex

from PIL import Image

from d2tiny.cli import COMMANDS, command_module, command_parser, main
from d2tiny.cli.predict import split_overrides
from d2tiny.config import load_config, validate_config

EXAMPLES = {name: command_module(name).EXAMPLE for name in COMMANDS}


def parsed(line):
    """Return the arguments of a documented command line of `d2tiny`; its config, if any, must load and be valid."""
    program, name, *words = shlex.split(line)
    assert program == "d2tiny", line
    args = command_parser(name).parse_intermixed_args(words)
    if getattr(args, "config", None):
        overrides = split_overrides(args.images)[1] if name == "predict" else args.overrides
        validate_config(load_config(args.config, overrides), datasets=False)
    return args


def write_visdrone(root):
    for stem in ("0000001_00001_d_0000001", "0000002_00002_d_0000002"):
        for folder in ("images", "annotations"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(root / "images" / f"{stem}.jpg")
        (root / "annotations" / f"{stem}.txt").write_text("10,20,8,6,1,4,0,0\n0,0,9,9,0,0,0,0\n")


def write_predictions(truth, path):
    """The ground truth itself, with scores."""
    entries = json.loads(truth.read_text())["annotations"]
    keys = ("image_id", "category_id", "bbox")
    path.write_text(json.dumps([{k: a[k] for k in keys} | {"score": 0.9} for a in entries if not a["iscrowd"]]))


def run(line):
    """Exit code of a command line; argparse leaves by SystemExit."""
    try:
        return main(shlex.split(line))
    except SystemExit as leave:
        return leave.code


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def change(path, edit):
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    return data
