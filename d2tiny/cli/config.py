"""``d2tiny config``: print a config as YAML."""

from __future__ import annotations

import argparse

from d2tiny.cli.common import add_overrides

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny config quick/faster_rcnn_lite0_fpn_rfla train.max_iter=200"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("config", metavar="NAME", help="lazy config (.py), native YAML, or zoo name")
    parser.add_argument("--unresolved", action="store_true", help="keep interpolations such as ${train.max_iter}")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Load and print."""
    from d2tiny.config import config_yaml, load_config
    from d2tiny.config.files import find_config
    from d2tiny.config.native import is_yacs, lazy_from_yacs

    config = find_config(args.config)
    cfg = lazy_from_yacs(config.path, args.overrides) if is_yacs(config.path) else load_config(config, args.overrides)
    print(config_yaml(cfg, resolve=not args.unresolved), end="")
    return 0
