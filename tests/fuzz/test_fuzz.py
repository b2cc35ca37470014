"""Broken files at every door give a clean value or one of our errors: no traceback, no hang, nothing written elsewhere.

``make fuzz`` takes 100,000 inputs instead of 2,000; ``D2TINY_FUZZ_SEED`` begins elsewhere. A failure names door and
seed and leaves the file.
"""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from d2tiny.utils.errors import D2TinyError
from tests.helpers.doors import DOORS, prepare

INPUTS = int(os.environ.get("D2TINY_FUZZ", "2000"))
FIRST = int(os.environ.get("D2TINY_FUZZ_SEED", "0"))
SLOWEST = 5.0  # seconds


@pytest.mark.parametrize("name", DOORS)
def test_a_broken_file_is_read_or_refused(name, tmp_path):
    door, root = DOORS[name], tmp_path / "data"
    root.mkdir()
    prepare(root)
    for seed in range(FIRST, FIRST + -(-INPUTS // len(DOORS))):
        content = door.broken(np.random.default_rng((seed, list(DOORS).index(name))))
        (root / door.file).write_bytes(content)
        start = time.perf_counter()
        try:
            door.read(root)
        except D2TinyError as err:
            assert str(err).strip(), f"seed {seed}: an error without words"
        except Exception as err:
            raise AssertionError(f"{name}, seed {seed}: {type(err).__name__}: {err}\n{content[:500]!r}") from err
        assert time.perf_counter() - start < SLOWEST, f"{name}, seed {seed}: hangs"
        assert [path.name for path in tmp_path.iterdir()] == ["data"], f"{name}, seed {seed}: writes outside its folder"
