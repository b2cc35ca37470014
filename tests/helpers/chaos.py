"""Kill a command at some moment, and see what it leaves and whether the next run puts it right."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.helpers import ROOT
from tests.helpers.processes import members, until

HOOK = ROOT / "tests" / "helpers" / "chaos_hook"
PATIENCE = 30.0  # seconds in which all processes must have ended, also on a busy machine
TEMPORARY = re.compile(r"\..+\.\d+(\.[0-9a-f]{16})?")  # names of open_atomic, now and before
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
Content = dict[str, bytes]


@dataclass(frozen=True)
class Task:
    """A command, run in a folder that has its inputs in ``in``; it writes to ``out`` only.

    Attributes:
        prepare: writes version 0 or 1 of the inputs into a folder; both have the same names.
        command: arguments of ``d2tiny``.
        again: more arguments for going on after a kill.
        whole: says what is wrong with the output folder that a kill left, given the undisturbed one.
        same: says how the output differs from the undisturbed one after going on.
        saved: says what a signal lost that lets a command end in order.
        versions: the earlier run, whose files ``out`` may hold, had version 0 of the inputs (2), or was the same (1).
    """

    prepare: Callable[[Path, int], None]
    command: tuple[str, ...]
    whole: Callable[[Path, Reference], list[str]]
    same: Callable[[Path, Reference], list[str]]
    again: tuple[str, ...] = ()
    saved: Callable[[Path], list[str]] = lambda out: []
    versions: int = 2


@dataclass(frozen=True)
class Reference:
    """What an undisturbed run does.

    Attributes:
        folder: it has ``in``, and ``out`` with what the run wrote.
        seconds: its duration.
        code: its exit code.
        events: how often its busiest process touches files of ``out``.
        old: folder of the earlier run.
    """

    folder: Path
    seconds: float
    code: int
    events: int
    old: Path


@dataclass(frozen=True)
class Kill:
    """A moment and a signal.

    Attributes:
        number: of the signal.
        share: of the undisturbed duration after which the main process gets the signal; or
        event: number of the touch of a file before which the process that does it kills itself,
        delay: or so many milliseconds later.
        earlier: ``out`` holds the files of an earlier run.
    """

    number: int
    share: float = 0.0
    event: int = 0
    delay: int = 0
    earlier: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, reference: Reference) -> Kill:
        """Draw a kill: mostly SIGKILL, half of them at a touch of a file, half at any time."""
        number = int(rng.choice([int(n) for n in SIGNALS], p=[0.7, 0.15, 0.15]))
        earlier = bool(rng.random() < 0.4)
        share, event = float(rng.random()), int(rng.integers(1, reference.events + 1))
        delay = int(rng.choice([0, 0, 1, 3, 10]))
        if rng.random() < 0.5:
            return cls(number, share=share, earlier=earlier)
        return cls(number, event=event, delay=delay, earlier=earlier)


@dataclass
class Outcome:
    """How a command ended."""

    code: int
    seconds: float
    text: str
    alive: list[str] = field(default_factory=list)


def content(folder: Path) -> Content:
    """Return the bytes of each file of a folder by its relative name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(task: Task, folder: Path, more: tuple[str, ...] = (), kill: Kill | None = None, seconds: float = 0) -> Outcome:
    """Run a command in a session of its own, and kill it if so told; ``seconds`` is its undisturbed duration."""
    environment = {**os.environ, "PYTHONPATH": f"{HOOK}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    environment |= {"D2TINY_CHAOS_OUT": str(folder / "out"), "D2TINY_CHAOS_LOG": str(folder / "events.")}
    environment |= {"DETECTRON2_DATASETS": str(folder / "in")}
    if kill is not None and kill.event:
        environment["D2TINY_CHAOS_AT"] = f"{kill.event} {kill.number} {kill.delay}"
    with (folder / "text.log").open("w") as log:
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "d2tiny", *task.command, *more],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            if kill is not None and not kill.event:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(kill.share * seconds)
                _send(process, kill.number)
            code = process.wait(900)
            until(lambda: not members(process.pid), PATIENCE, 0.02)
            alive = members(process.pid)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return Outcome(code, time.monotonic() - start, (folder / "text.log").read_text(errors="replace"), alive)


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal as users do: Ctrl-C goes to all processes of a terminal, others to the one that was started."""
    if process.poll() is not None:
        return
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)


def undisturbed(task: Task, folder: Path) -> Reference:
    """Run a command without disturbance, on each version of its inputs."""
    for version in range(2 - task.versions, 2):
        here = folder / str(version)
        here.mkdir()
        task.prepare(here, version)
        outcome = run(task, here)
        assert outcome.code in (0, 1), outcome.text
    events = max(len(log.read_bytes()) for log in here.glob("events.*"))
    return Reference(here, outcome.seconds, outcome.code, events, folder / str(2 - task.versions))


def strike(task: Task, reference: Reference, kill: Kill, folder: Path) -> list[str]:
    """Kill a command once, and run it again; return what is wrong."""
    shutil.copytree(reference.folder / "in", folder / "in")
    if kill.earlier:
        shutil.copytree(reference.old / "out", folder / "out")
    before = content(folder / "out")
    outcome = run(task, folder, (), kill, reference.seconds)
    several = "--num-gpus" in task.command
    after = content(folder / "out")
    started = after != before and after != content(reference.folder / "out")
    problems = _ended(outcome, kill, reference, several, started=started)
    if outcome.code in (130, 143):
        problems += task.saved(folder / "out")
    problems += _elsewhere(folder, reference) + task.whole(folder / "out", reference)
    again = run(task, folder, task.again)
    if again.code != reference.code:
        return [*problems, f"the next run ends with {again.code}: {again.text[-500:]}"]
    return problems + _elsewhere(folder, reference) + task.same(folder / "out", reference)


def _ended(outcome: Outcome, kill: Kill, reference: Reference, several: bool, *, started: bool) -> list[str]:
    """Return what is wrong with the end of a killed command; before it has written anything, or when all is written,
    the signal may come before or after Python lets the command handle it.

    Where one of ``several`` processes was killed, the first one says so and exits with 2.
    """
    problems = [f"processes {outcome.alive} still run"] if outcome.alive else []
    if outcome.code == reference.code or not started:
        return problems
    if kill.number == signal.SIGKILL:
        allowed = [-9, 2] if several and kill.event else [-9]
    else:
        allowed = [128 + kill.number]
        if "Traceback" in outcome.text:
            problems.append(f"a traceback: {outcome.text[-500:]}")
    return problems if outcome.code in allowed else [*problems, f"exit code {outcome.code}: {outcome.text[-500:]}"]


def _elsewhere(folder: Path, reference: Reference) -> list[str]:
    """Return what a command changed outside its output folder."""
    known = {"in", "out", "text.log"}
    extra = [p.name for p in folder.iterdir() if p.name not in known and not p.name.startswith("events.")]
    problems = [f"{extra} appeared beside the output"] if extra else []
    if content(folder / "in") != content(reference.folder / "in"):
        problems.append("the inputs were changed")
    return problems


# --- what is whole, what is the same ------------------------------------------------------------------------------


def finished_or_absent(out: Path, reference: Reference) -> list[str]:
    """Return which files have a final name and neither the bytes of the undisturbed nor of an earlier run."""
    new = content(reference.folder / "out")
    old = content(reference.old / "out")
    problems = []
    for name, data in content(out).items():
        if name not in new and name not in old:
            if not TEMPORARY.fullmatch(Path(name).name):
                problems.append(f"{name} is neither a result nor a temporary file")
        elif data not in (new.get(name), old.get(name)):
            problems.append(f"{name} is half-written ({len(data)} bytes)")
    return problems


def same_bytes(out: Path, reference: Reference) -> list[str]:
    """Return which files differ from those of the undisturbed run, are missing, or are left over."""
    new, found = content(reference.folder / "out"), content(out)
    return [
        *(f"{name} is missing" for name in new.keys() - found.keys()),
        *(f"{name} is left over" for name in found.keys() - new.keys()),
        *(f"{name} differs" for name in new.keys() & found.keys() if new[name] != found[name]),
    ]


def tiles_fit(out: Path, reference: Reference) -> list[str]:
    """Return what is half-written, and which tiles are not those of the ``instances.json`` that is there."""
    problems = finished_or_absent(out, reference)
    index = out / "instances.json"
    if not index.is_file() or problems:
        return problems
    versions = [folder / "out" for folder in (reference.folder, reference.old)]
    of = next(folder for folder in versions if (folder / index.name).read_bytes() == index.read_bytes())
    for image in json.loads(index.read_bytes())["images"]:
        tile, right = (folder / "images" / image["file_name"] for folder in (out, of))
        if not tile.is_file() or tile.read_bytes() != right.read_bytes():
            return [f"instances.json is there, but {image['file_name']} is not the tile it describes"]
    return []
