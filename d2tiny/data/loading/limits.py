"""What may be opened as an image: regular files whose pixels fit into memory."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

__all__ = [
    "DECODED_PIXELS",
    "Problem",
    "bomb_problem",
    "claim_problem",
    "memory_limit",
    "pillow_unlimited",
    "require_regular_file",
    "size_problem",
]

DECODED_PIXELS = 40_000_000  # images up to this size are decoded at once (120 MB)

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_PLAUSIBLE = 250  # decoded bytes for each byte of the file: aerial images stay under 100, also with empty margins
_IMPOSSIBLE = 100_000  # likewise, what no compression of these formats reaches in images of 8 bits, or 1 bit
_SMALL = 100_000_000  # decoded bytes up to which no file is too short


class Problem(NamedTuple):
    """Why an image cannot be used: a kind in two or three words, and a sentence about this image without full stop."""

    kind: str
    detail: str


class _PillowLimit:
    """Pillow's limit of pixels, which is a global: lifted while at least one thread is inside."""

    def __init__(self) -> None:
        self._lock, self._inside, self._limit = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                Image.MAX_IMAGE_PIXELS = self._limit


_pillow = _PillowLimit()


@contextmanager
def pillow_unlimited() -> Iterator[None]:
    """Lift Pillow's limit of 179 megapixels, for files that the user named; :func:`size_problem` stands in for it."""
    _pillow.enter()
    try:
        yield
    finally:
        _pillow.leave()


@lru_cache(maxsize=1)
def memory_limit() -> int:
    """Return how many bytes the pixels of one image may take: half of the memory of this machine or container."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # no POSIX
        total = 16 << 30
    for file in _CGROUPS:
        try:
            total = min(total, int(Path(file).read_text()))
        except (OSError, ValueError):  # absent, or "max"
            continue
    return total // 2


def size_problem(width: int, height: int) -> Problem | None:
    """Return why an image cannot be decoded at once, (height, width, 3) uint8, or None."""
    needed, limit = width * height * 3, memory_limit()
    if needed <= limit:
        return None
    return Problem(
        "too large",
        f"{width}x{height} px take {needed / 1e9:.1f} GB decoded, more than the limit of {limit / 1e9:.1f} GB, half of "
        "this machine's memory; if the file is not damaged, cut it first: `d2tiny tile` reads upright 8-bit PNG, JPEG "
        "and TIFF in bands of rows",
    )


def claim_problem(width: int, height: int, file_bytes: int) -> Problem | None:
    """Return why an image of a file of so many bytes cannot be decoded at once, or None."""
    needed = width * height * 3
    if needed > max(_SMALL, _IMPOSSIBLE * file_bytes) and needed <= memory_limit():
        detail = f"its {file_bytes:,} bytes claim {width}x{height} px, {needed / 1e9:.1f} GB decoded"
        return Problem("cut short", detail)
    return size_problem(width, height)


def bomb_problem(width: int, height: int, file_bytes: int) -> Problem | None:
    """Return why an image that is read in bands is refused: a small file that claims more pixels than fit in memory."""
    if width * height * 3 <= _PLAUSIBLE * file_bytes:
        return None
    found = claim_problem(width, height, file_bytes)
    if found is None or found.kind == "cut short":
        return found
    return Problem(found.kind, f"its {file_bytes:,} bytes claim {found.detail}")


def require_regular_file(path: str | os.PathLike[str]) -> None:
    """Raise unless a path is a regular file, or a link to one; opening a pipe would wait for ever.

    Raises:
        OSError: it is missing, a folder, a pipe or a device.
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{os.fspath(path)} is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(f"{os.fspath(path)} is a pipe, socket or device, not a file")
