"""Broken files at every door give a clean value or one of our errors: no traceback, no hang, nothing written elsewhere.

``make fuzz`` takes 100,000 inputs instead of 2,000; ``D2TINY_FUZZ_SEED`` begins elsewhere. A failure names door and
seed and leaves the file.
"""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from d2tiny.utils.errors import D2TinyError
from tests.helpers.doors import DOORS, prepare

INPUTS = int(os.environ.get("D2TINY_FUZZ", "2000"))
FIRST = int(os.environ.get("D2TINY_FUZZ_SEED", "0"))
SLOWEST = 5.0  # seconds of the processor: other work on the machine does not count
SHARE = INPUTS / sum(1 / door.every for door in DOORS.values())  # inputs of a door that is not slow


@pytest.fixture
def alarm():
    """Interrupts what hangs; numbers are computed outside of Python all the same."""

    def hangs(*_):
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DOORS)
def test_a_broken_file_is_read_or_refused(name, tmp_path, alarm):
    door, root = DOORS[name], tmp_path / "data"
    root.mkdir()
    prepare(root)
    file = root / door.file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    before = _files(tmp_path, door)
    for seed in range(FIRST, FIRST + max(1, round(SHARE / door.every))):
        content = door.broken(np.random.default_rng((seed, *name.encode())))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        start = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, 12 * SLOWEST)
        try:
            door.read(root)
        except D2TinyError as err:
            assert str(err).strip(), f"seed {seed}: an error without words"
        except Exception as err:
            raise AssertionError(f"{name}, seed {seed}: {type(err).__name__}: {err}\n{content[:500]!r}") from err
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert time.process_time() - start < SLOWEST, f"{name}, seed {seed}: hangs"
        assert _files(tmp_path, door) == before, f"{name}, seed {seed}: writes outside its folder"


def _files(folder, door):
    """Return the paths and sizes of all files but those that a door may change."""
    own = folder / "data" / door.writes if door.writes else None
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        (str(path), path.stat().st_size)
        for path in paths
        if path != folder / "data" / door.file and (own is None or own not in path.parents)
        if "__pycache__" not in path.parts
    }
