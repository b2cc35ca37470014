"""Command-line doors to the API; ``tools/*.py`` call them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from d2tiny import model_zoo
from d2tiny.compat import launch
from d2tiny.config import load_config, validate_config
from d2tiny.config.lazy import find_config
from d2tiny.config.native import is_yacs, lazy_from_yacs
from d2tiny.data.datasets import register_coco_like
from d2tiny.engine.run import run
from d2tiny.inference import predict_folder
from d2tiny.quickstart import quickstart
from d2tiny.utils.errors import CheckpointError, D2TinyError

__all__ = ["demo_main", "quickstart_main", "train_main"]


def guarded(action: Callable[[], None]) -> int:
    """Run an action; an error that the user can mend is printed without a traceback."""
    try:
        action()
    except D2TinyError as err:
        print(f"\nerror: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


def add_register_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--register NAME JSON IMAGES`` for users' own data."""
    parser.add_argument(
        "--register",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "JSON", "IMAGES"),
        help="register your own COCO json under NAME; may be given several times",
    )


def _train_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/train_net.py",
        description="Train or evaluate a detector.",
        epilog="example: tools/train_net.py --config-file configs/quick/faster_rcnn_r18_fpn_rfla.py "
        "train.max_iter=200 train.output_dir=output/try",
    )
    parser.add_argument("--config-file", required=True, metavar="X", help="lazy config (.py), native YAML, or zoo name")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="processes; also on the CPU")
    add_register_option(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides")
    return parser


def register_given(args: argparse.Namespace) -> None:
    """Register what ``--register`` names."""
    for name, json_file, images in args.register:
        register_coco_like(name, json_file, images)


def _train_config(args: argparse.Namespace) -> DictConfig:
    """Register the user's data and load the config."""
    register_given(args)
    path = find_config(args.config_file)
    if is_yacs(path):
        return lazy_from_yacs(path, args.overrides)
    return load_config(path, args.overrides)


def _train_worker(args: argparse.Namespace) -> None:
    """Load the config and run it, in each process."""
    run(
        _train_config(args),
        resume=args.resume,
        eval_only=args.eval_only,
        config_name=os.fspath(args.config_file),
        overrides=args.overrides,
    )


def train_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``tools/train_net.py``; returns the exit code."""
    args = _train_parser().parse_intermixed_args(argv)

    def action() -> None:
        cfg = _train_config(args)
        if args.num_gpus > 1:  # checked here too, so that a mistake is said once and before processes start
            validate_config(cfg, splits=("test",) if args.eval_only else ("train", "test"))
        launch(_train_worker, args.num_gpus, device=cfg.train.device, args=(args,))

    return guarded(action)


def _demo_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/demo.py",
        description="Detect objects in images: annotated pictures and a COCO-style json.",
        epilog="example: tools/demo.py --config quick/faster_rcnn_r18_fpn_rfla "
        "--weights output/try/model_final.pth --input images/ --output found/",
    )
    parser.add_argument("--config", required=True, metavar="X", help="config file or zoo name")
    parser.add_argument("--weights", required=True, metavar="W", help="checkpoint")
    parser.add_argument("--input", required=True, nargs="+", metavar="I", help="images, folders or globs")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument("--score", type=float, default=0.3, help="lowest score shown (default 0.3)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16: faster where the processor has it")
    add_register_option(parser)
    parser.add_argument("--opts", nargs="+", default=[], metavar="key=value", help="config overrides")
    return parser


def demo_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``tools/demo.py``; returns the exit code."""
    args = _demo_parser().parse_args(argv)
    failed: list[str] = []

    def action() -> None:
        register_given(args)
        if not Path(args.weights).is_file():
            raise CheckpointError(f"--weights {args.weights}: no such file.")
        cfg = model_zoo.get_cfg(args.config, args.weights, args.opts, args.device)
        failed.extend(predict_folder(cfg, args.input, args.output, score=args.score, bf16=args.bf16))
        print(f"Pictures and detections.json: {args.output.resolve()}")

    code = guarded(action)
    for message in failed:
        print(f"error: {message}", file=sys.stderr)
    return code or int(bool(failed))


def quickstart_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``tools/quickstart.py``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="tools/quickstart.py",
        description="Train a small detector on drawn scenes (or your tiles) and show what it finds.",
        epilog="example: tools/quickstart.py --output output/demo --iterations 200",
    )
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="DIR")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="instances_train.json, instances_val.json, train/, val/; default: drawn scenes",
    )
    parser.add_argument("--iterations", type=int, default=0, metavar="N", help="length of the training")
    args = parser.parse_args(argv)

    def action() -> None:
        quickstart(args.output, args.data, args.iterations)

    return guarded(action)
