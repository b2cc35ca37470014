"""The file of a training's numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO

from detectron2.utils.events import EventWriter, get_event_storage

__all__ = ["MetricsWriter"]


class MetricsWriter(EventWriter):
    """Append numbers to a file with a json object a line, each number once.

    Detectron2's ``JSONWriter`` leaves out what is put after it has written an iteration. This one may write the losses
    before the checkpoint of their iteration, and what its evaluation finds afterwards: a killed training loses neither.
    """

    def __init__(self, path: Path) -> None:
        """Write to this file, which is opened with the first numbers and keeps what it has."""
        self._path = path
        self._file: IO[str] | None = None
        self._written: dict[str, int] = {}

    def write(self) -> None:
        """Write the numbers that are new, a line for each iteration, with its ``iteration``."""
        rows: dict[int, dict[str, float]] = {}
        for key, (value, iteration) in get_event_storage().latest_with_smoothing_hint(1).items():
            if self._written.get(key, -1) < iteration:
                rows.setdefault(iteration, {"iteration": iteration})[key] = value
                self._written[key] = iteration
        if not rows:
            return
        if self._file is None:
            self._file = self._path.open("a", encoding="utf-8")
        self._file.writelines(f"{json.dumps(rows[iteration], sort_keys=True)}\n" for iteration in sorted(rows))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
