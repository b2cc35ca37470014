"""``d2tiny tile``: cut large images into tiles."""

from __future__ import annotations

import argparse
from pathlib import Path

from d2tiny.cli.common import add_images_option, add_output_option, add_stretch_option, require_folder
from d2tiny.utils.errors import ConfigError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny tile instances_val.json --images val --output output/tiles --size 256 --overlap 64"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; the defaults are those of ``TileSettings``."""
    parser.add_argument("source", type=Path, help="COCO json, or a folder of images without labels")
    add_images_option(parser, "folder of the images (a json needs it)")
    add_output_option(parser, "gets images/, instances.json")
    parser.add_argument("--size", type=int, default=800, metavar="PX", help="side of a tile (default %(default)s)")
    parser.add_argument("--overlap", type=int, default=200, metavar="PX", help="of neighbours (default %(default)s)")
    parser.add_argument(
        "--keep", type=float, default=0.5, metavar="S", help="share inside to be learned (default %(default)s)"
    )
    parser.add_argument(
        "--cut", choices=("ignore", "drop"), default="ignore", help="objects with less inside (default %(default)s)"
    )
    parser.add_argument(
        "--empty", choices=("keep", "drop"), default="keep", help="tiles without anything (default %(default)s)"
    )
    parser.add_argument("--suffix", choices=(".png", ".jpg"), default=".png", help="of the tiles (default %(default)s)")
    add_stretch_option(parser)
    parser.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="images cut at the same time (default %(default)s)"
    )


def _images(source: Path, given: Path | None) -> Path:
    """Return the folder of the images: the source, if it is a folder, else the given one.

    Raises:
        ConfigError: none is given, there is no such folder, or two different ones.
    """
    require_folder(given)
    if not source.is_dir():
        if given is None:
            raise ConfigError(f"{source}: name the folder of its images with --images.")
        return given
    if given is not None and given.resolve() != source.resolve():
        raise ConfigError(f"{source} is a folder of images; leave --images {given} out, or name a json.")
    return source


def run(args: argparse.Namespace) -> int:
    """Cut and write."""
    from d2tiny.data.tools.tiling import TileSettings, tile_dataset

    images = _images(args.source, args.images)
    settings = TileSettings(args.size, args.overlap, args.keep, args.cut, args.empty, args.suffix, args.stretch)
    data = tile_dataset(args.source, images, args.output, settings, jobs=args.jobs)
    ignored = sum(a["iscrowd"] for a in data["annotations"])
    print(
        f"{args.output / 'instances.json'}: {len(data['images'])} tiles, {len(data['annotations']) - ignored} objects, "
        f"{ignored} ignored; images in {args.output / 'images'}"
    )
    return 0
