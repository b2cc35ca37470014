"""Memory of a process that computes the same again and again: kept instead of given back after every map."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4  # of glibc's malloc.h
_MB = 1 << 20
_LARGEST = 256  # MB; larger blocks than maps are given back, such as those of whole scenes


def keep_freed_memory(mb: int = 1024) -> bool:
    """Let the C library keep freed memory for the next feature map, for the whole process.

    By default glibc asks the system for every block of over 32 MB and gives it back when it is freed, so that the
    system clears the pages of each large feature map anew: about a seventh of the time of a detector at 800 × 800 px.
    The process's peak of memory stays about the same; what is not returned is its memory between two images.
    Blocks of over 256 MB are still given back.

    Args:
        mb: freed memory at the end of the heap that is kept, in MB, at most 2,047.

    Returns:
        Whether the C library took it; False where it is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    # Before glibc 2.35 the threshold cannot exceed 32 MB, but no block at all may be asked for alone.
    large = mallopt(_M_MMAP_THRESHOLD, _LARGEST * _MB) or mallopt(_M_MMAP_MAX, 0)
    return bool(large and mallopt(_M_TRIM_THRESHOLD, min(mb, 2047) * _MB) and mallopt(_M_TOP_PAD, 64 * _MB))
