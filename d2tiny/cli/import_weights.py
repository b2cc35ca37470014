"""``d2tiny import-weights``: weights of detrex's or the official DINO for fine-tuning."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from d2tiny.cli.common import add_config_option, add_output_option, add_overrides, refuse_original
from d2tiny.utils.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from d2tiny.engine.import_weights import ImportedWeights
    from d2tiny.modeling.meta_arch import TinyDINO

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny import-weights checkpoint.pth --config aitod/dino_r50_4scale_12e --output coco.pth"
_NAMES = {"detrex": "detrex's DINO", "official": "the official DINO"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    what = "checkpoint of detrex (projects/dino) or IDEA-Research/DINO"
    parser.add_argument("input", type=Path, metavar="FILE", help=what)
    add_config_option(parser, what="config of the detector that will start from the weights; its model is a DINO")
    add_output_option(parser, "file for the weights, a .pth", metavar="FILE")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Read, rename, write, and say what became of the tensors."""
    from d2tiny.engine.checkpoint import write_checkpoint
    from d2tiny.engine.import_weights import import_weights
    from d2tiny.utils.checkpoint_files import read_checkpoint

    refuse_original("--output", args.output, args.input)
    if args.output.suffix != ".pth":
        raise ConfigError(f"--output {args.output}: must end with .pth.")
    given = read_checkpoint(args.input)["model"]
    model = _model(args.config, args.overrides)
    try:
        imported = import_weights(model, given)
    except CheckpointError as err:
        raise CheckpointError(f"{args.input}: {err}") from err
    write_checkpoint(args.output, imported.state)
    _tell(args, imported, len(given))
    return 0


def _model(config: str, overrides: list[str]) -> TinyDINO:
    """Build the detector of a config; what it draws at random is the same each time.

    Raises:
        ConfigError: its model is no DINO.
    """
    import torch

    from d2tiny.config import load_config, validate_config
    from d2tiny.config.shapes import build_node
    from d2tiny.modeling.meta_arch import TinyDINO

    cfg = load_config(config, overrides)
    validate_config(cfg, datasets=False)
    torch.manual_seed(0)
    model = build_node(cfg.model)
    if not isinstance(model, TinyDINO):
        raise ConfigError(f"--config {config}: its model is {type(model).__name__}; weights of a DINO need a DINO.")
    return model


def _tell(args: argparse.Namespace, imported: ImportedWeights, given: int) -> None:
    print(f"{args.input}: {_NAMES[imported.source]}, {given} tensors")
    print(f"  {len(imported.state)} tensors of the model come from it: all but those named below")
    for note in imported.notes:
        print(f"  {note}")
    for reason, count in Counter(imported.left_out.values()).items():
        first = next(name for name, why in imported.left_out.items() if why == reason)
        print(f"  {count} tensors of the file are left out, such as {first}: {reason}")
    if imported.initial:
        print(f"  {len(imported.initial)} tensors of the model keep their initial values: {_grouped(imported.initial)}")
    print(f"wrote {args.output}")
    words = ["d2tiny", "train", "--config", str(args.config), "--weights", str(args.output)]
    print("The weights mean what they meant under these settings:" if imported.overrides else "To train from them:")
    print("  " + shlex.join([*words, *args.overrides, *imported.overrides]))


def _grouped(names: Iterable[str]) -> str:
    """Return the parts of a model that names belong to, with numbers."""
    parts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{part} ({count})" for part, count in parts.items())
