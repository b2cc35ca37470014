"""Work that is done in as many threads as PyTorch uses: of compiled loops, which release Python's lock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

__all__ = ["ranges", "run_in_threads"]

_LEAST = 16  # what a range holds at least: a vector of float32 of AVX-512


def ranges(length: int, most: int | None = None) -> list[tuple[int, int]]:
    """Return (start, stop) of the ranges that ``length`` things are divided into: one a thread, of ``most`` at most."""
    step = max(math.ceil(length / torch.get_num_threads()), _LEAST)
    step = step if most is None else min(step, most)
    return [(start, min(start + step, length)) for start in range(0, length, step)]


def run_in_threads(work: Callable[..., None], pieces: Iterable[tuple[Any, ...]]) -> None:
    """Call ``work`` with the arguments of each piece."""
    pieces = list(pieces)
    workers = min(torch.get_num_threads(), len(pieces))
    if workers <= 1:
        for piece in pieces:
            work(*piece)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda piece: work(*piece), pieces))
