"""The journal of a run: what was found in which tiles so far, so that a killed run goes on where it was.

A run keeps a folder ``.run`` (``.run-3-of-16`` for a shard) in its output::

    settings.json     model, settings and list of scenes; a run with others is refused
    journal.jsonl     a line for each scene that is done or failed
    overlap           of tiles in px, where it was found by looking at some
    7.tiles           what was found in the tiles of scene 7, which is not done: one record a unit of tiles
    7.npz             the objects of scene 7, until all scenes are done
    complete          all scenes are done and everything is written; resuming has nothing to do

Records carry a checksum. Half of one, which a kill in the middle of writing leaves, is cut off on resuming.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from d2tiny.inference.merge import Views
from d2tiny.inference.task import UnitFound
from d2tiny.utils.differences import settings_difference
from d2tiny.utils.errors import ConfigError, DatasetError
from d2tiny.utils.files import open_atomic, write_text
from d2tiny.utils.folders import lock_folder

__all__ = ["Journal", "PartFile", "read_part", "run_folder", "shard_folders"]

logger = logging.getLogger(__name__)

_HEADER = struct.Struct("<4sIII")  # magic, unit, count, checksum
_HEAD, _UNIT = b"head", b"unit"
_BYTES = 4 + 16 + 4 + 4  # of a box: tile, coordinates, score, class


def run_folder(output: Path, shard: tuple[int, int] | None = None) -> Path:
    """Return the folder of a run's journal."""
    return output / (".run" if shard is None else f".run-{shard[0]}-of-{shard[1]}")


def shard_folders(output: Path) -> dict[tuple[int, int], Path]:
    """Return the folders of the shards in an output, by (number, count)."""
    found = {}
    for folder in sorted(output.glob(".run-*-of-*")):
        number, _, count = folder.name.removeprefix(".run-").partition("-of-")
        if number.isdigit() and count.isdigit():
            found[int(number), int(count)] = folder
    return found


class Journal:
    """What a run has done."""

    def __init__(self, folder: Path) -> None:
        """Read the journal of a folder, see :meth:`open`."""
        self.folder = folder
        self.settings = _read_settings(folder / "settings.json")
        self.done: dict[int, dict[str, Any]] = {}
        self.failed: dict[int, dict[str, Any]] = {}
        file = folder / "journal.jsonl"
        for line in file.read_bytes().splitlines(keepends=True) if file.exists() else ():
            entry = _entry(line)
            if entry is not None:
                known, other = (self.done, self.failed) if entry["state"] == "done" else (self.failed, self.done)
                known[entry["scene"]] = entry
                other.pop(entry["scene"], None)

    @classmethod
    @contextmanager
    def open(cls, folder: Path, settings: dict[str, Any], *, resume: bool) -> Iterator[Journal]:
        """Open the journal of a run, and keep the folder for this process inside a ``with`` block.

        Args:
            folder: of the journal.
            settings: of the run.
            resume: go on with what is there; otherwise start anew.

        Raises:
            ConfigError: the folder holds a run of other settings that is not finished, or on resuming any; another
                process works in it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder, key="--output"):
            settings = json.loads(json.dumps(settings))
            if (folder / "settings.json").exists():
                journal = cls(folder)
                difference = settings_difference(journal.settings, settings)
                if difference and (resume or not journal.finished):
                    run, way = (
                        ("a run", "start anew without --resume")
                        if journal.finished
                        else ("an interrupted run", f"delete {folder}")
                    )
                    raise ConfigError(
                        f"{folder.parent} holds {run} of other settings ({difference}). Choose another folder, "
                        f"or {way}."
                    )
                if not resume:
                    if difference:
                        logger.warning(
                            "%s held a finished run of other settings (%s): its detections.json is replaced.",
                            folder.parent,
                            difference,
                        )
                    _empty(folder)
            if not (folder / "settings.json").exists():
                _empty(folder)  # what a process left that was killed while it did so
                write_text(folder / "settings.json", json.dumps(settings, indent=1))
            journal = cls(folder)
            journal.failed.clear()  # tried again
            journal._write_journal()
            yield journal

    @property
    def finished(self) -> bool:
        """Whether every scene is done or failed."""
        return len(self.done.keys() | self.failed.keys()) == len(self.settings["mine"])

    def _write_journal(self) -> None:
        """Write the journal anew: without half a line, in the order of scenes."""
        entries = sorted([*self.done.values(), *self.failed.values()], key=lambda entry: entry["scene"])
        write_text(self.folder / "journal.jsonl", "".join(json.dumps(e, sort_keys=True) + "\n" for e in entries))

    def note(self, **entry: Any) -> None:
        """Append a line about a scene: its number ``scene``, ``state``, ``done`` or ``failed``, what else is known."""
        known, other = (self.done, self.failed) if entry["state"] == "done" else (self.failed, self.done)
        known[entry["scene"]] = entry
        other.pop(entry["scene"], None)
        with (self.folder / "journal.jsonl").open("ab") as file:
            file.write((json.dumps(entry, sort_keys=True) + "\n").encode())

    @property
    def overlap(self) -> int | None:
        """The overlap that was found to suit the run, in px; setting it stores it for resuming."""
        try:
            return int((self.folder / "overlap").read_text())
        except (OSError, ValueError):
            return None

    @overlap.setter
    def overlap(self, value: int) -> None:
        write_text(self.folder / "overlap", str(value))

    def part(self, scene: int) -> Path:
        """Return the file of what was found in the tiles of a scene."""
        return self.folder / f"{scene}.tiles"

    def keep(self, scene: int, views: Views) -> None:
        """Keep the objects of a scene until the end of the run."""
        with open_atomic(self.folder / f"{scene}.npz") as file:
            np.savez(file, boxes=views.boxes, scores=views.scores, classes=views.classes)

    def kept(self, scene: int) -> Views:
        """Return the objects of a scene.

        Raises:
            DatasetError: they are not there or damaged.
        """
        file = self.folder / f"{scene}.npz"
        try:
            with np.load(file, allow_pickle=False) as data:
                return Views(data["boxes"], data["scores"], data["classes"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as err:
            raise DatasetError(f"{file}: cannot read what was found ({err}). Start the run anew.") from err

    @property
    def complete(self) -> bool:
        """Whether every scene is done, and everything that comes of them is written."""
        return (self.folder / "complete").exists()

    def settle(self, *, shard: bool) -> None:
        """Leave the same of a run whatever its course was; what was found is kept for scenes that failed, or shards.

        Args:
            shard: the run is a part of one.
        """
        self._write_journal()
        for scene, entry in self.done.items():
            if not entry.get("split"):
                self.part(scene).unlink(missing_ok=True)
        if shard or self.failed:
            return
        write_text(self.folder / "complete", "")
        for pattern in ("*.npz", "*.tiles"):
            for file in self.folder.glob(pattern):
                file.unlink()


def _entry(line: bytes) -> dict[str, Any] | None:
    """Return a line of a journal; None for half a line."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
        return entry if isinstance(entry["scene"], int) and entry["state"] in ("done", "failed") else None
    except (ValueError, KeyError, TypeError):
        return None


def _read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a run.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        # Not by read_json, which refuses names that are not UTF-8.
        settings: dict[str, Any] = json.loads(path.read_bytes())
        return settings | {"mine": list(settings["mine"]), "scenes": list(settings["scenes"])}
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise DatasetError(f"{path}: cannot read the settings of a run ({err}). Delete {path.parent}.") from err


def _empty(folder: Path) -> None:
    """Delete what a run left, its settings last: without them nothing of it is taken for good."""
    for item in sorted(folder.iterdir(), key=lambda item: item.name == "settings.json"):
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        elif not item.name.endswith(".lock"):
            item.unlink()


class PartFile:
    """What was found in the tiles of one scene, as it is found."""

    def __init__(self, path: Path, head: dict[str, Any]) -> None:
        """Open the file; what an interrupted run wrote there of the same scene stays.

        Args:
            path: of the file.
            head: what is known of the scene; an earlier file with another head is started anew.
        """
        known, good = _scan(path)
        if known != head:
            good, self.units = 0, set()
        else:
            self.units = {unit for unit, _, _ in _records(path, good)}
        self._file: IO[bytes] = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(good)
        self._file.seek(good)
        if not good:
            self._write(_HEAD, 0, 0, json.dumps(head).encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def add(self, unit: int, found: UnitFound) -> None:
        """Append what was found in a unit."""
        payload = b"".join(
            np.ascontiguousarray(a, dtype=d).tobytes() for a, d in zip(found, ("<i4", "<f4", "<f4", "<i4"), strict=True)
        )
        self._write(_UNIT, unit, len(found.scores), payload)
        self.units.add(unit)

    def _write(self, kind: bytes, unit: int, count: int, payload: bytes) -> None:
        size = struct.pack("<Q", len(payload)) if kind == _HEAD else b""
        self._file.write(_HEADER.pack(kind, unit, count, zlib.crc32(payload)) + size + payload)
        self._file.flush()  # to the system, which keeps it when this process is killed


def _scan(path: Path) -> tuple[dict[str, Any] | None, int]:
    """Return the head of a file, and up to where its records are whole; (None, 0) without a head."""
    if not path.exists():
        return None, 0
    with path.open("rb") as file:
        start = file.read(_HEADER.size + 8)
        if len(start) < _HEADER.size + 8 or start[:4] != _HEAD:
            return None, 0
        _, _, _, checksum = _HEADER.unpack(start[: _HEADER.size])
        payload = file.read(min(struct.unpack("<Q", start[_HEADER.size :])[0], os.fstat(file.fileno()).st_size))
        if zlib.crc32(payload) != checksum:
            return None, 0
        good = file.tell()
        while True:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                break
            kind, _, count, checksum = _HEADER.unpack(header)
            if kind != _UNIT or count > 1 << 28 or zlib.crc32(file.read(count * _BYTES)) != checksum:
                break
            if file.tell() > os.fstat(file.fileno()).st_size:
                break
            good = file.tell()
    head: dict[str, Any] = json.loads(payload)
    return head, good


def _records(path: Path, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield unit, place of the payload and number of boxes of each record before ``end``."""
    with path.open("rb") as file:
        start = file.read(_HEADER.size + 8)
        place = _HEADER.size + 8 + struct.unpack("<Q", start[_HEADER.size :])[0]
        while place < end:
            file.seek(place)
            _, unit, count, _ = _HEADER.unpack(file.read(_HEADER.size))
            yield unit, place + _HEADER.size, count
            place += _HEADER.size + count * _BYTES


def read_part(paths: Sequence[Path]) -> Iterator[tuple[int, UnitFound]]:
    """Yield the units of a scene in their order, one at a time, from the files of one run or of its shards."""
    places: dict[int, tuple[Path, int, int]] = {}
    for path in paths:
        _, good = _scan(path)
        places.update({unit: (path, place, count) for unit, place, count in _records(path, good)} if good else {})
    for unit in sorted(places):
        path, place, n = places[unit]
        with path.open("rb") as file:
            file.seek(place)
            data = file.read(n * _BYTES)
        tiles = np.frombuffer(data, "<i4", n)
        boxes = np.frombuffer(data, "<f4", 4 * n, 4 * n).reshape(-1, 4)
        scores, classes = np.frombuffer(data, "<f4", n, 20 * n), np.frombuffer(data, "<i4", n, 24 * n)
        yield unit, UnitFound(tiles, boxes, scores, classes)
