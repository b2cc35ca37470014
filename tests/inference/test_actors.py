"""How jobs are given to actors, with a Ray that is made up: nothing is lost when actors die, nothing is done twice."""

from __future__ import annotations

import random
import sys
from collections import Counter
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from d2tiny.inference import actors
from d2tiny.inference.actors import IN_FLIGHT, ActorPool, Job, Started
from d2tiny.utils.errors import ConfigError, DatasetError


class Dead(Exception):
    """An actor is gone."""


class TaskError(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__(f"a long report\nof {cause}")
        self.cause = cause


class Actor:
    """Answers ``(name of the actor, argument)``; ``dies`` says with which arguments it does."""

    def __init__(self, ray: FakeRay) -> None:
        self.ray, self.alive, self.in_flight = ray, True, 0
        ray.actors.append(self)

    def __getattr__(self, method: str) -> Any:
        def remote(*arguments: Any) -> tuple[Actor, str, tuple[Any, ...], object]:
            self.in_flight += 1
            self.ray.most_in_flight = max(self.ray.most_in_flight, self.in_flight)
            return self, method, arguments, object()

        return SimpleNamespace(remote=remote)


class FakeRay(ModuleType):
    """What of Ray the pool uses; answers come in any order."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.actors: list[Actor] = []
        self.dies: Any = lambda *_: False
        self.random = random.Random(0)
        self.most_in_flight = 0
        names = ("RayActorError", "ObjectLostError", "WorkerCrashedError", "NodeDiedError", "OutOfMemoryError")
        self.exceptions = SimpleNamespace(RayTaskError=TaskError, **dict.fromkeys(names, Dead))

    def wait(self, references: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return ([self.random.choice(references)], []) if references else ([], [])

    def get(self, reference: Any) -> Any:
        actor, method, arguments, _ = reference
        actor.in_flight -= 1
        if self.dies(actor, method, arguments):
            actor.alive = False
        if not actor.alive:
            raise Dead("killed")
        if method == "wrong":
            raise TaskError(KeyError("wrong"))
        return method, arguments

    def kill(self, actor: Actor) -> None:
        actor.alive = False


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def pool(ray: FakeRay, most: int = 4) -> ActorPool:
    def start() -> Started:
        actor = Actor(ray)
        return Started(actor, actor.build.remote())

    return ActorPool(start, lambda _, answer: None if answer[0] == "build" else pytest.fail("not asked"), lambda: most)


def drain(work: ActorPool) -> list[tuple[int, Any]]:
    done = []
    while work.busy:
        job, answer = work.take()
        done.append((job.unit, answer))
    return done


def test_all_jobs_are_done_once_by_as_many_actors_as_there_are_places(ray: FakeRay) -> None:
    work = pool(ray)
    for unit in range(100):
        work.submit(Job("find", unit // 10, (unit,), unit=unit))
    assert sorted(unit for unit, _ in drain(work)) == list(range(100))
    assert len(ray.actors) == 4
    assert ray.most_in_flight == IN_FLIGHT


def test_little_work_needs_few_actors(ray: FakeRay) -> None:
    work = pool(ray, 64)
    for unit in range(6):
        work.submit(Job("find", unit, (unit,), unit=unit))
    drain(work)
    assert len(ray.actors) <= 3


@pytest.mark.parametrize("seed", range(5))
def test_jobs_of_actors_that_die_are_done_by_others(ray: FakeRay, seed: int) -> None:
    """A third of the actors die at some time, some while they start: every job is done, none is told twice."""
    ray.random.seed(seed)
    deaths = set(range(seed % 2, 40, 3))
    ray.dies = lambda actor, method, arguments: (
        ray.actors.index(actor) in deaths and (method != "build" or seed == 4) and ray.random.random() < 0.2
    )
    work = pool(ray)
    for unit in range(200):
        work.submit(Job("find", unit // 10, (unit,), unit=unit))
    done = drain(work)
    assert sorted(unit for unit, _ in done) == list(range(200))
    assert not any(isinstance(answer, Exception) for _, answer in done)
    assert any(not actor.alive for actor in ray.actors)
    assert len([actor for actor in ray.actors if actor.alive]) <= 4


def test_a_job_that_every_actor_dies_with_fails_and_the_others_are_done(ray: FakeRay) -> None:
    ray.dies = lambda actor, method, arguments: arguments == (7,)
    work = pool(ray)
    for unit in range(30):
        work.submit(Job("find", unit, (unit,), f"{unit}.tif", unit))
    answers = dict(drain(work))
    failed = answers.pop(7)
    assert isinstance(failed, DatasetError)
    assert "7.tif: 4 processes died while they looked at it (killed)" in str(failed)
    assert Counter(map(type, answers.values())) == {tuple: 29}


def test_actors_that_die_while_they_start_end_the_run(ray: FakeRay) -> None:
    ray.dies = lambda actor, method, arguments: method == "build"
    with pytest.raises(ConfigError, match="4 processes in a row died while they loaded the model"):
        pool(ray).warm()


def test_what_an_actor_raises_is_raised_here(ray: FakeRay) -> None:
    work = pool(ray)
    work.submit(Job("wrong", 0, ()))
    with pytest.raises(KeyError, match="wrong"):
        work.take()


def test_actors_are_given_scenes_that_they_have_open(ray: FakeRay) -> None:
    """Of 60 jobs of six scenes in turn, most go to an actor that had the scene among its last three."""
    work = pool(ray, 2)
    for unit in range(60):
        work.submit(Job("find", unit % 6, (unit % 6,), unit=unit))
    opened, recent = 0, {}
    give = work._give

    def count(member: Any, job: Job) -> None:
        nonlocal opened
        mine = recent.setdefault(id(member), [])
        opened += job.scene not in mine
        recent[id(member)] = [*(scene for scene in mine if scene != job.scene), job.scene][-3:]
        give(member, job)

    work._give = count  # type: ignore[method-assign]
    drain(work)
    assert opened <= 12


def test_a_full_cluster_is_told(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "_PATIENCE", 0.0)
    monkeypatch.setattr(ray, "wait", lambda *_, **__: ([], []))
    with pytest.raises(ConfigError, match="no process could be started"):
        pool(ray).warm()
