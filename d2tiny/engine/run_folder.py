"""What an earlier training left in the folder of a training: gone on with, or moved aside."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from d2tiny.utils.files import open_atomic

__all__ = ["CONFIG", "finish_archive", "mend_metrics", "prepare_folder"]

CONFIG = "config.yaml"

logger = logging.getLogger(__name__)


def prepare_folder(output: Path, resume: bool) -> None:
    """Make the folder ready for a training that goes on, or for one that starts anew."""
    if resume:
        mend_metrics(output / "metrics.json")
    else:
        _archive_previous_run(output)


def _archive_previous_run(output: Path) -> None:
    """Move what an earlier training in the same folder wrote to ``previous_1``, ``previous_2``, …, and say so.

    The folder has a hidden name until all is there, so that a kill meanwhile does not leave half of a training to
    resume: :func:`finish_archive` moves the rest.
    """
    if not _files_of_training(output):
        return
    number = 1
    while (output / f"previous_{number}").exists():
        number += 1
    (output / f".previous_{number}").mkdir()
    folder = finish_archive(output)
    logger.warning("%s holds an earlier training, which is now in %s; --resume would go on with it.", output, folder)


def _files_of_training(output: Path) -> list[Path]:
    """Return what makes a folder that of a training; a config alone does not."""
    names = ("last_checkpoint", "metrics.json", "result.json")
    return sorted([*output.glob("model_*.pth"), *(output / name for name in names if (output / name).exists())])


def finish_archive(output: Path) -> Path | None:
    """Move an earlier training to where this or a killed process began to move it; return where, if that is so."""
    hidden = next((folder for folder in output.glob(".previous_*") if folder.is_dir()), None)
    if hidden is None:
        return None
    config = output / CONFIG
    if config.is_file():  # a copy, since the new training may be told to read this file
        with open_atomic(hidden / CONFIG) as copy:
            copy.write(config.read_bytes())
    for file in _files_of_training(output):
        file.replace(hidden / file.name)
    return hidden.replace(output / hidden.name.removeprefix("."))


def mend_metrics(path: Path) -> None:
    """End the last line of ``metrics.json``, or remove it if it is half of a record: it would swallow the next."""
    if not path.is_file():
        return
    content = path.read_bytes()
    complete, newline, rest = content.rpartition(b"\n")
    if not rest:
        return
    try:
        json.loads(rest)
        mended = content + b"\n"
    except (ValueError, RecursionError):
        logger.warning("%s: the last line is only half of a record, and is removed.", path)
        mended = complete + newline
    with open_atomic(path) as file:
        file.write(mended)
