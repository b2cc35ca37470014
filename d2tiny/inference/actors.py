"""Work on the processes of a Ray cluster: as many as it needs and has, none with too much, none of it lost."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from d2tiny.utils.env import require_extra
from d2tiny.utils.errors import ConfigError, DatasetError

__all__ = ["IN_FLIGHT", "OPEN_SCENES", "ActorPool", "Job", "Started"]

logger = logging.getLogger(__name__)

OPEN_SCENES = 3  # that a process keeps open
IN_FLIGHT = 2  # jobs of a process: one is read while the model works on the other
_LOOKED_AT = 64  # jobs among which one is looked for whose scene a process has open
_TRIES = 4  # processes that may die with a job
_PERIOD = 2.0  # seconds between looks at the size of the cluster
_PATIENCE = 600.0  # seconds without any process


@dataclass
class Job:
    """A call of a process.

    Attributes:
        method: name of its method.
        scene: number of the scene that it is about; processes that have it open are preferred. -1 for none.
        arguments: of the method.
        path: of the scene.
        unit: number of the unit of work, for the caller.
        deaths: processes that died with it.
    """

    method: str
    scene: int
    arguments: tuple[Any, ...]
    path: str = ""
    unit: int = -1
    deaths: int = 0


class Started(NamedTuple):
    """A process that was asked for.

    Attributes:
        handle: of the actor.
        answer: reference to its first answer, which comes when it can work.
    """

    handle: Any
    answer: Any


@dataclass(eq=False)
class _Member:
    handle: Any
    ready: bool = False
    jobs: int = 0
    scenes: deque[int] = field(default_factory=lambda: deque(maxlen=OPEN_SCENES))


class ActorPool:
    """Gives jobs to actors of Ray, and jobs of actors that died to others."""

    def __init__(
        self, start: Callable[[], Started], prepared: Callable[[Any, Any], Any], most: Callable[[], int]
    ) -> None:
        """Start with no actor.

        Args:
            start: asks Ray for another actor.
            prepared: is given an actor and its answer; returns the reference to another one that it has to give before
                it can work, or None.
            most: returns how many the cluster has room for now.
        """
        self._ray = require_extra("ray", "ray")
        self._start, self._prepared, self._ask_most = start, prepared, most
        self.most = max(1, most())
        self._members: list[_Member] = []
        self._waiting: deque[Job] = deque()
        self._running: dict[Any, tuple[_Member, Job | None]] = {}
        self._lost_starts = 0
        self._looked = self._alive = time.monotonic()

    @property
    def waiting(self) -> int:
        """Number of jobs that no actor has."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a job is not done."""
        return bool(self._waiting) or any(job is not None for _, job in self._running.values())

    def submit(self, job: Job, *, soon: bool = False) -> None:
        """Take a job; ``soon``: before those that wait."""
        (self._waiting.appendleft if soon else self._waiting.append)(job)

    def drop(self, scene: int) -> None:
        """Forget the jobs of a scene that wait."""
        self._waiting = deque(job for job in self._waiting if job.scene != scene)

    def take(self) -> tuple[Job, Any]:
        """Wait for a job and return it with its answer.

        An error stands for the answer where several actors died with a job.

        Raises:
            ConfigError: no actor can be had.
            Exception: what an actor raised.
        """
        while True:
            self._grow()
            self._assign()
            finished = self._step()
            if finished is not None:
                return finished

    def warm(self) -> None:
        """Start a first actor and wait until it can work; errors as of :meth:`take`."""
        while not any(member.ready for member in self._members):
            if not self._members:
                self._add()
            self._step()

    def _step(self) -> tuple[Job, Any] | None:
        """Wait a little for an answer; return a job that is done."""
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_PERIOD)
        if not done:
            self._check_alive()
            return None
        member, job = self._running.pop(done[0])
        member.jobs -= job is not None
        try:
            answer = self._answer(done[0])
        except self._losses as err:
            failed = self._lose(member, job, err)
            return (job, failed) if failed is not None and job is not None else None
        self._alive = time.monotonic()
        if job is not None:
            return job, answer
        more = self._prepared(member.handle, answer)
        if more is not None:
            self._running[more] = member, None
        else:
            member.ready, self._lost_starts = True, 0
        return None

    def close(self) -> None:
        """End all actors."""
        for member in self._members:
            self._ray.kill(member.handle)
        self._members.clear()
        self._running.clear()
        self._waiting.clear()

    @property
    def _losses(self) -> tuple[type[Exception], ...]:
        e = self._ray.exceptions
        return e.RayActorError, e.ObjectLostError, e.WorkerCrashedError, e.NodeDiedError, e.OutOfMemoryError

    def _answer(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as err:
            cause = err.cause
            raise cause if isinstance(cause, Exception) else ConfigError(f"--ray: {err}") from None

    def _grow(self) -> None:
        """Ask for more actors if there is work for them."""
        now = time.monotonic()
        if now - self._looked > _PERIOD:
            self._looked, self.most = now, max(1, self._ask_most())
        jobs = len(self._waiting) + sum(job is not None for _, job in self._running.values())
        wanted = min(self.most, -(-jobs // IN_FLIGHT))
        while len(self._members) < wanted:
            self._add()

    def _add(self) -> None:
        handle, answer = self._start()
        member = _Member(handle)
        self._members.append(member)
        self._running[answer] = member, None

    def _assign(self) -> None:
        """Give jobs to actors that have less than two, those that have none first."""
        for load in range(IN_FLIGHT):
            for member in [m for m in self._members if m.ready and m.jobs == load]:
                if self._waiting:
                    self._give(member, self._choose(member))

    def _choose(self, member: _Member) -> Job:
        """Take a job, if possible one whose scene an actor has open."""
        for place, job in zip(range(_LOOKED_AT), self._waiting, strict=False):
            if job.scene in member.scenes:
                del self._waiting[place]
                return job
        return self._waiting.popleft()

    def _give(self, member: _Member, job: Job) -> None:
        if job.scene in member.scenes:
            member.scenes.remove(job.scene)
        member.scenes.append(job.scene)
        member.jobs += 1
        self._running[getattr(member.handle, job.method).remote(*job.arguments)] = member, job

    def _lose(self, member: _Member, job: Job | None, error: Exception) -> Exception | None:
        """Put a job of an actor that is gone before the others; return an error if that went wrong too often."""
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if member in self._members:
            self._members.remove(member)
            self._ray.kill(member.handle)
            logger.warning("--ray: a process is lost (%s); others do its work.", reason)
        if job is None:
            self._lost_starts += 1
            if self._lost_starts >= _TRIES:
                raise ConfigError(
                    f"--ray: {_TRIES} processes in a row died while they loaded the model ({reason}). Is there enough "
                    "memory on the nodes?"
                ) from error
            return None
        job.deaths += 1
        if job.deaths < _TRIES:
            self.submit(job, soon=True)
            return None
        return DatasetError(
            f"{job.path}: {_TRIES} processes died while they looked at it ({reason}). Is it too large for the memory "
            "of the nodes? Try a smaller --tile or --batch."
        )

    def _check_alive(self) -> None:
        """Raise if there has been no actor for long."""
        if any(member.ready for member in self._members):
            self._alive = time.monotonic()
        elif time.monotonic() - self._alive > _PATIENCE:
            raise ConfigError(
                f"--ray: no process could be started for {_PATIENCE / 60:.0f} minutes; is the cluster full (ray "
                "status)? What is done is kept: run again with --resume."
            )
