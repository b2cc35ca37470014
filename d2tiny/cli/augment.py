"""``d2tiny augment``: draw what augmentations do to tiles."""

from __future__ import annotations

import argparse
from pathlib import Path

from d2tiny.cli.common import (
    add_config_option,
    add_images_option,
    add_output_option,
    add_overrides,
    add_stretch_option,
    require_folder,
)
from d2tiny.utils.errors import ConfigError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny augment instances_val.json --images val --output output/augmentations.jpg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", type=Path, help="COCO json")
    add_images_option(parser, "folder of the images", required=True)
    add_output_option(parser, "picture, .jpg or .png", metavar="FILE")
    add_config_option(parser, required=False, what="show the training augmentations of a config instead")
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="columns (default %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the random choices (default %(default)s)"
    )
    add_stretch_option(parser)
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Draw and write."""
    require_folder(args.images)
    if args.output.suffix not in (".jpg", ".png"):
        raise ConfigError(f"--output {args.output}: the name must end with .jpg or .png.")
    if args.overrides and not args.config:
        raise ConfigError(f"{args.overrides[0]}: overrides need --config.")
    import cv2
    from detectron2.config import instantiate
    from detectron2.data import MetadataCatalog

    from d2tiny.config import load_config
    from d2tiny.data.datasets import DatasetSource, load_coco_like
    from d2tiny.data.tools.preview import augmentation_sheet
    from d2tiny.utils.files import open_atomic

    records = load_coco_like(DatasetSource("preview", (str(args.source.resolve()),), (str(args.images.resolve()),)))
    steps = None
    if args.config:
        cfg = load_config(args.config, args.overrides)
        steps = {args.config: instantiate(cfg.dataloader.train.mapper)}
    classes = MetadataCatalog.get("preview").thing_classes
    sheet = augmentation_sheet(records, classes, steps, samples=args.samples, seed=args.seed, stretch=args.stretch)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(args.output.suffix, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    with open_atomic(args.output) as file:
        file.write(data.tobytes())
    print(f"Picture: {args.output}")
    return 0
