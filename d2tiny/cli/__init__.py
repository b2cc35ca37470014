"""The ``d2tiny`` command.

Each command is a module of this package (with ``_`` for ``-``) with an ``EXAMPLE``, ``add_arguments(parser)`` and
``run(args)``. Only the module of the command that was given is imported, and its ``run`` imports what it needs: help
and wrong arguments answer at once, and commands that only read json never import torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

import d2tiny
from d2tiny.cli.common import EXIT_CODES, guarded

__all__ = ["COMMANDS", "build_parser", "command_module", "command_parser", "main"]

COMMANDS = {
    "train": "Train a detector, or evaluate its weights.",
    "evaluate": "Evaluate COCO results, with an error report.",
    "predict": "Detect objects in images of any size: maps, pictures, COCO json.",
    "merge": "Join the shards of d2tiny predict.",
    "export": "Write a trained detector as ONNX, OpenVINO or TorchScript, verified.",
    "import-weights": "Let fine-tuning start from detrex's or the official DINO.",
    "demo": "Train a small detector on drawn scenes (or your tiles) and show what it finds.",
    "draw": "Draw aerial scenes with boxes, to train on.",
    "convert": "Turn a benchmark's own files into COCO json.",
    "check": "List everything that is wrong in a dataset; exit code 1 on errors.",
    "stats": "Count sizes, classes, density, and what detectors can learn from.",
    "tile": "Cut large images into tiles; goes on where stopped.",
    "augment": "Draw what augmentations do to your tiles.",
    "anchors": "Fit YOLOv5's anchors to your objects.",
    "zoo": "List the configs.",
    "config": "Print a config as YAML, with everything that it leaves to others filled in.",
}


def command_module(name: str) -> ModuleType:
    """Import the module of a command, a key of :data:`COMMANDS`."""
    return import_module(f"d2tiny.cli.{name.replace('-', '_')}")


def _fill(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    """Add a command's arguments and its example to its parser."""
    command = command_module(name)
    command.add_arguments(parser)
    parser.description = COMMANDS[name]
    parser.epilog = f"example:\n  {command.EXAMPLE}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter  # keeps the example on one line
    return parser


def command_parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of one command, a key of :data:`COMMANDS`."""
    return _fill(argparse.ArgumentParser(prog=f"d2tiny {name}"), name)


def build_parser(*, full: bool = False) -> argparse.ArgumentParser:
    """Return the parser of ``d2tiny`` itself.

    Args:
        full: with the arguments of all commands, which imports their modules; otherwise only the commands' names.
    """
    parser = argparse.ArgumentParser(
        prog="d2tiny",
        description="Detection of tiny objects in aerial images.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"d2tiny {d2tiny.__version__}")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        default=argparse.SUPPRESS,
        help="print a script that completes commands and options in this shell",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands", dest="command")
    for name, line in COMMANDS.items():
        command = commands.add_parser(name, help=line)
        if full:
            _fill(command, name)
    return parser


class _PrintCompletion(argparse.Action):
    """Print the completion script of a shell and leave."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        from d2tiny.cli.completion import completion

        print(completion(build_parser(full=True), str(values)))
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``d2tiny`` command.

    Args:
        argv: arguments; those of the process by default.

    Returns:
        The exit code.

    Raises:
        SystemExit: help was asked for (code 0), or an argument is wrong (code 2).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        build_parser().parse_args(words)  # prints help, version or completion, or says what is wrong, and leaves
    args = command_parser(words[0]).parse_intermixed_args(words[1:])
    output = getattr(args, "output", None)
    return guarded(lambda: command_module(words[0]).run(args), output=output if isinstance(output, Path) else None)
