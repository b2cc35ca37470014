"""A process that has imported everything and forks a child for each ``d2tiny`` command: kills strike at its work.

It reads a line of json for each command, ``{"folder", "arguments", "event", "delay", "seconds"}``, and answers with
one, ``{"code", "events", "seconds"}``. A child is killed with SIGKILL ``delay`` ms after it touches a file of
``folder/out`` for the ``event``-th time, or after so many ``seconds``; with neither, it is left alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.helpers import ROOT

HOOK = ROOT / "tests" / "helpers" / "chaos_hook"


class Zygote:
    """The other side: starts the process, sends commands."""

    def __init__(self, warm_up: dict[str, Any]) -> None:
        """Start it; it runs a first command in itself."""
        environment = {**os.environ, "PYTHONPATH": f"{HOOK}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.zygote"], env=environment, stdin=-1, stdout=-1, text=True
        )
        self.run(warm_up)

    def run(self, command: dict[str, Any]) -> dict[str, Any]:
        """Run a command and return how it went."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def _work(command: dict[str, Any]) -> int:
    """Run a command in this process; what it prints goes to ``text.log``."""
    from d2tiny.cli import main

    folder = Path(command["folder"])
    os.chdir(folder)
    log = os.open(folder / "text.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    saved = [os.dup(1), os.dup(2)]
    for number in (1, 2):
        os.dup2(log, number)
    try:
        return main(command["arguments"])
    finally:
        sys.stdout.flush()
        for number, old in zip((1, 2), saved, strict=True):
            os.dup2(old, number)


def _child(command: dict[str, Any]) -> None:
    """Count the touches of files as the kill suite does, and run the command."""
    os.environ["D2TINY_CHAOS_OUT"] = str(Path(command["folder"]) / "out")
    os.environ["D2TINY_CHAOS_LOG"] = str(Path(command["folder"]) / "events.")
    os.environ["D2TINY_CHAOS_AT"] = f"{command.get('event', 0)} {int(signal.SIGKILL)} {command.get('delay', 0)}"
    from d2tiny.utils import files, folders

    # As in a process that was just started: earlier files may be left over, and no folder was looked at.
    folders._STARTED = time.time()
    files._CLEANED.clear()
    sys.modules.pop("sitecustomize", None)
    import sitecustomize  # noqa: F401

    os._exit(_work(command))


def _forked(command: dict[str, Any]) -> dict[str, Any]:
    start = time.monotonic()
    child = os.fork()
    if not child:
        _child(command)
    if command.get("seconds"):
        time.sleep(command["seconds"])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    log = Path(command["folder"]) / f"events.{child}"
    events = len(log.read_bytes()) if log.exists() else 0  # killed before it counted
    log.unlink(missing_ok=True)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "events": events,
        "seconds": time.monotonic() - start,
    }


def main() -> None:
    """Answer commands until there are no more."""
    import tqdm

    tqdm.tqdm.monitor_interval = 0  # no thread, which a child would lack
    tqdm.tqdm.set_lock(threading.RLock())  # its own is shared with children, and a killed one would keep it
    first = json.loads(sys.stdin.readline())
    print(json.dumps({"code": _work(first), "events": 0, "seconds": 0}), flush=True)
    for line in sys.stdin:
        print(json.dumps(_forked(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
