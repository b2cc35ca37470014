"""``d2tiny train`` and ``tools/train_net.py``: train a detector, or evaluate its weights."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2tiny.cli.common import (
    add_config_option,
    add_device_option,
    add_overrides,
    add_register_option,
    guarded,
    register_given,
)
from d2tiny.utils.malloc import keep_freed_memory

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["EXAMPLE", "add_arguments", "net_parser", "run", "train_main"]

EXAMPLE = "d2tiny train --config quick/faster_rcnn_lite0_fpn_rfla --output output/try train.max_iter=200"


def add_arguments(parser: argparse.ArgumentParser, *config_names: str) -> None:
    """Add the arguments; ``config_names`` are those of the option ``--config``."""
    add_config_option(parser, *config_names)
    parser.add_argument("--weights", metavar="W", help="checkpoint to start from, or to evaluate")
    parser.add_argument("--output", "-o", type=Path, metavar="DIR", help="folder of the run (default: the config's)")
    parser.add_argument("--eval-only", action="store_true", help="evaluate the weights instead of training")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes; also on the CPU")
    add_device_option(parser, default=None)
    add_register_option(parser)
    add_overrides(parser)


def net_parser() -> argparse.ArgumentParser:
    """Return the parser of ``tools/train_net.py``, which has the option names of Detectron2's script."""
    parser = argparse.ArgumentParser(
        prog="tools/train_net.py",
        description="Train or evaluate a detector.",
        epilog="example: tools/train_net.py --config-file quick/faster_rcnn_lite0_fpn_rfla "
        "train.max_iter=200 train.output_dir=output/try",
    )
    add_arguments(parser, "--config-file", "--config")
    return parser


def train_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``tools/train_net.py``; returns the exit code."""
    args = net_parser().parse_intermixed_args(argv)
    return guarded(lambda: run(args), output=args.output)


def all_overrides(args: argparse.Namespace) -> list[str]:
    """Return the overrides with those that the options stand for."""
    options = {
        "train.init_checkpoint": args.weights,
        "train.output_dir": args.output,
        "train.device": args.device,
    }
    quoted = {key: str(value).replace("'", "\\'") for key, value in options.items() if value is not None}
    return [f"{key}='{value}'" for key, value in quoted.items()] + args.overrides


def _config(args: argparse.Namespace) -> DictConfig:
    """Register the user's data and load the config."""
    from d2tiny.config import load_config
    from d2tiny.config.files import find_config
    from d2tiny.config.native import is_yacs, lazy_from_yacs

    register_given(args)
    config = find_config(args.config)
    overrides = all_overrides(args)
    return lazy_from_yacs(config.path, overrides) if is_yacs(config.path) else load_config(config, overrides)


def _work(args: argparse.Namespace) -> None:
    """Load the config and run it, in each process."""
    from d2tiny.engine import run as run_config

    keep_freed_memory()
    run_config(
        _config(args),
        resume=args.resume,
        eval_only=args.eval_only,
        config_name=os.fspath(args.config),
        overrides=all_overrides(args),
    )


def run(args: argparse.Namespace) -> int:
    """Train or evaluate in one or several processes."""
    from omegaconf import OmegaConf

    from d2tiny.compat import launch
    from d2tiny.config import validate_config
    from d2tiny.utils.folders import refuse_locked

    cfg = _config(args)
    if args.num_gpus > 1:  # checked here too, so that a mistake is said once and before processes start
        validate_config(cfg, splits=("test",) if args.eval_only else ("train", "test"))
        if not args.eval_only:
            refuse_locked(Path(cfg.train.output_dir))
    device = OmegaConf.select(cfg, "train.device", default="auto")  # what is missing is told when the config is checked
    launch(_work, args.num_gpus, device=device, args=(args,))
    weights = Path(cfg.train.output_dir) / "model_final.pth"
    if not args.eval_only and weights.is_file():
        print(f"Weights: {weights}\nTry them: d2tiny predict IMAGE --weights {shlex.quote(str(weights))}")
    return 0
