"""Python imports this first in commands of the kill suite: it counts what they do to files, and kills at a chosen one.

``D2TINY_CHAOS_OUT`` is the folder that counts. Each process appends a byte to ``D2TINY_CHAOS_LOG`` + its id before it
opens a file there for writing, renames or removes one; TensorBoard's, which is opened for each number, does not count.
``D2TINY_CHAOS_AT`` is ``number signal milliseconds``: a process gets the signal so long after it began to do the thing
of that number.
"""

from __future__ import annotations

import os
import sys
import threading
import time

_EVENTS = {"os.rename", "os.remove", "os.link", "os.symlink", "os.truncate"}
_OUT = os.environ.get("D2TINY_CHAOS_OUT", "")
_AT = [int(word) for word in os.environ.get("D2TINY_CHAOS_AT", "0 0 0").split()]


def _strike(number: int, delay: float) -> None:
    time.sleep(delay)
    os.kill(os.getpid(), number)


def _install() -> None:
    count = 0
    log = os.open(f"{os.environ['D2TINY_CHAOS_LOG']}{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal count
        if event not in _EVENTS and (event != "open" or not int(args[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            return
        if not isinstance(args[0], str | bytes):
            return
        path = os.fsdecode(args[0])
        if "tfevents" in path or not os.path.abspath(path).startswith(_OUT):  # noqa: PTH100
            return
        count += 1
        os.write(log, b".")
        if count == _AT[0] and _AT[2]:
            threading.Thread(target=_strike, args=(_AT[1], _AT[2] / 1000), daemon=True).start()
        elif count == _AT[0]:
            os.kill(os.getpid(), _AT[1])

    sys.addaudithook(hook)


if _OUT:
    _install()
