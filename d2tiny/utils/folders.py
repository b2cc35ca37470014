"""A folder that one training writes to: its lock, and what interrupted processes left in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from d2tiny.utils.errors import ConfigError

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

__all__ = ["lock_folder", "mark_written", "refuse_locked", "remove_leftovers"]

_LOCK = ".training.lock"
# Names of open_atomic and name_atomic, and of checkpoints by earlier versions; other programs' may end with a number.
_LEFTOVER = re.compile(r"\.(?:.+\.(?P<pid>\d+)\.[0-9a-f]{16}|.+\.pth\.(?P<old>\d+))")
_STARTED = time.time()


@contextmanager
def lock_folder(folder: Path, *, key: str = "train.output_dir") -> Iterator[None]:
    """Keep a folder for this process inside a ``with`` block.

    The lock is the operating system's, so that it ends with its process, however that ends. Where the file system has
    no locks, nothing is locked.

    Args:
        folder: an existing folder.
        key: setting that names the folder, for the message.

    Raises:
        ConfigError: another process has the folder; says which and since when.
    """
    path = folder / _LOCK
    descriptor = _acquire(path, key)
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def refuse_locked(folder: Path, *, key: str = "train.output_dir") -> None:
    """Raise if another process has the folder, without keeping it.

    Raises:
        ConfigError: it has.
    """
    if (folder / _LOCK).is_file():
        with lock_folder(folder, key=key):
            pass


def _acquire(path: Path, key: str) -> int | None:
    """Return the descriptor of the locked file, or None where locks do not work."""
    if fcntl is None:
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as err:
            owner = os.read(descriptor, 4096)
            os.close(descriptor)
            raise ConfigError(_taken(path.parent, owner, key)) from err
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        if _is_same(descriptor, path):
            break
        os.close(descriptor)  # its owner removed the file while it was opened here
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(_myself()).encode())
    return descriptor


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _myself() -> dict[str, Any]:
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_STARTED))
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": started, "command": " ".join(sys.argv)[:500]}


def _taken(folder: Path, owner: bytes, key: str) -> str:
    try:
        who = json.loads(owner)
        text = f"process {who['pid']} on {who['host']}, started {who['started']}: {who['command']}"
    except (ValueError, KeyError, TypeError):
        text = "a process that has just started"
    return f"{folder}: another run writes to this folder ({text}). Wait for it, stop it, or choose another {key}."


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files and folders of writes that were interrupted; those of running processes are kept.

    One is left over if it is older than this process, nobody holds its lock (of :func:`mark_written`), and the
    process in its name is gone, or younger than the file.

    Args:
        folder: only what lies directly in it.

    Returns:
        What was removed.
    """
    try:
        hidden = [entry for entry in os.scandir(folder) if entry.name.startswith(".")]
    except OSError:
        return []
    removed = []
    for entry in hidden:
        match = _LEFTOVER.fullmatch(entry.name)
        # What has vanished since was finished by its process; without rights here, whoever writes next says so.
        with suppress(OSError):
            if match is not None and _is_left(entry, int(match["pid"] or match["old"])):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)  # noqa: PTH108
                elif match["pid"]:  # earlier versions wrote no folders
                    shutil.rmtree(entry.path)
                else:
                    continue
                removed.append(Path(entry.path))
    return removed


def mark_written(descriptor: int) -> None:
    """Lock a file that this process writes until it is closed: processes in other containers do not see this one.

    Where the file system has no locks, nothing is done.
    """
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_left(entry: os.DirEntry[str], pid: int) -> bool:
    if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
        return False
    written = entry.stat(follow_symlinks=False).st_mtime
    return written < _STARTED and not _writes(pid, written) and not _is_marked(entry.path)


def _is_marked(path: str) -> bool:
    """Return whether a process holds the lock of :func:`mark_written`."""
    if fcntl is None:
        return False
    access = os.O_RDONLY if Path(path).is_dir() else os.O_RDWR
    descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def _writes(pid: int, written: float) -> bool:
    """Return whether a process runs that was there when the file was written."""
    started = _start_of(pid)
    return started is not None and started <= written + 1


def _start_of(pid: int) -> float | None:
    """Return when a process started, in seconds since 1970; 0 where it runs but that is unknown, None without it."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        pass  # it belongs to somebody else
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(int(x.split()[1]) for x in Path("/proc/stat").read_text().splitlines() if x.startswith("btime"))
        return boot + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return 0.0
