"""``d2tiny export``: a trained detector as ONNX, OpenVINO or TorchScript, verified."""

from __future__ import annotations

import argparse
from pathlib import Path

from d2tiny.cli.common import add_config_option, add_output_option, add_overrides, add_weights_place_option

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "d2tiny export --weights colour --format openvino --output model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; the defaults are those of ``ExportSettings``."""
    add_config_option(parser, required=False)
    parser.add_argument("--weights", metavar="W", help="checkpoint, or name of published weights (default: published)")
    add_weights_place_option(parser)
    add_output_option(parser, "new folder for the model")
    parser.add_argument(
        "--format", choices=("onnx", "openvino", "torchscript"), default="onnx", help="default: %(default)s"
    )
    parser.add_argument("--channels", choices=("RGB", "BGR"), help="order in its images (default: the model's)")
    parser.add_argument(
        "--tile", type=int, default=800, metavar="PX", help="side of the tiles of scenes (default %(default)s)"
    )
    group = parser.add_argument_group("check")
    group.add_argument("--verify", type=Path, metavar="DIR", help="images that both forms see (default: drawn scenes)")
    group.add_argument("--annotations", type=Path, metavar="JSON", help="COCO json of --verify: measure the AP of both")
    group = parser.add_argument_group("precision")
    group.add_argument(
        "--precision",
        choices=("fp32", "bf16", "int8"),
        default="fp32",
        help="bf16: OpenVINO computes in bfloat16; int8: quantised (default %(default)s)",
    )
    group.add_argument("--calibration", type=Path, metavar="DIR", help="images that int8 is fitted to, some 100")
    group.add_argument(
        "--max-drop", type=float, default=0.5, metavar="AP", help="largest loss of AP, points (default %(default)s)"
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Export, compare, and say what was written and how it differs."""
    from d2tiny.utils.errors import ConfigError

    if args.config is None and args.weights is None:
        raise ConfigError("Name a detector: --config, or --weights with published weights (d2tiny zoo --published).")
    from d2tiny import model_zoo
    from d2tiny.export import ExportSettings, export_model
    from d2tiny.utils.compiled import COMPILING
    from d2tiny.utils.logs import messages_shown

    settings = ExportSettings(
        format=args.format,
        precision=args.precision,
        channels=args.channels,
        tile=args.tile,
        verify=args.verify,
        annotations=args.annotations,
        calibration=args.calibration,
        max_drop=args.max_drop,
    )
    cfg = model_zoo.get_cfg(args.config, args.weights, args.overrides, "cpu", place=args.weights_from)
    with messages_shown(COMPILING):
        result = export_model(cfg, args.config or args.weights, args.output, settings, lambda text: print(f"{text} …"))
    print(f"{result.path}: {result.bytes / 1e6:.1f} MB, {args.precision}")
    print(f"  {result.verification}")
    if result.ap is not None:
        print(f"  AP {result.ap[0]:.2f} as a model, {result.ap[1]:.2f} exported")
    if args.format != "torchscript":
        print(f"  next: d2tiny predict picture.jpg --model {args.output}")
    return 0
