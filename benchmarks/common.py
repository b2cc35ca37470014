"""Helpers of all benchmarks: command line, processes, peak memory, result files. Imports neither torch nor d2tiny.

A contender is one of the implementations that a benchmark compares. Each is measured in a process of its own, because
memory and caches of one would change the measurement of the next.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"


class ContenderError(SystemExit):
    """A contender failed in its process; the message is what it wrote to stderr."""


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows the docstring of a benchmark as it is."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include the memory of the parent process before exec
        return float(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024)


def in_own_process(*arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run this script again with other arguments, on one thread, and return the json of its last line of output.

    Args:
        *arguments: command-line arguments.
        environment: further environment variables.

    Raises:
        ContenderError: the process failed.
    """
    done = subprocess.run(
        [sys.executable, sys.argv[0], *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        check=False,
    )
    if done.returncode:
        raise ContenderError(done.stderr)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def parse_with_overrides(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line, and return the overrides of configs (KEY=VALUE) that stand anywhere in it.

    They are removed first, because a list such as ``--rows`` would include those that follow it.
    """
    overrides = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
    return parser.parse_args([argument for argument in sys.argv[1:] if argument not in overrides]), overrides


def command_line() -> str:
    """Return the command that runs this benchmark again, with its arguments; of folders elsewhere the name alone."""
    arguments = [_without_folders(argument) for argument in sys.argv[1:]]
    return f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(arguments)}".rstrip()


def _without_folders(argument: str) -> str:
    option, equals, value = ("", "", argument) if Path(argument).is_absolute() else argument.rpartition("=")
    return f"{option}{equals}{','.join(_name(part) for part in value.split(','))}"


def _name(value: str) -> str:
    path = Path(value)
    if not path.is_absolute():
        return value
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def kept_entries(path: Path, key: str) -> dict[str, Any]:
    """Return what a result file has under a key, so that entries of earlier calls stay in it; nothing without one."""
    entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))[key] if path.exists() else {}
    return entries


def first_batches(cfg: Any, count: int) -> Iterator[Any]:
    """Yield the first batches of a config's training, each with a seed and an event storage of its own."""
    import torch
    from detectron2.config import instantiate
    from detectron2.utils.events import EventStorage

    for number, batch in enumerate(islice(instantiate(cfg.dataloader.train).iter_from(0), count)):
        torch.manual_seed(number)
        with EventStorage(0):
            yield batch


def write_record(path: Path, **fields: Any) -> None:
    """Write a result file: the hardware, the command with its arguments, and the fields."""
    from d2tiny.utils.env import describe_hardware  # imports torch, which a contender may not need

    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"hardware": describe_hardware(), "command": command_line(), **fields}
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
