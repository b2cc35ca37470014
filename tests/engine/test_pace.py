"""How the demo fits its training into the time: on processors that are made up, and the hook that ends it."""

from types import SimpleNamespace

import pytest
from detectron2.engine import TrainerBase

from d2tiny.engine.early_stopping import EarlyStop
from d2tiny.engine.pace import FEWEST, MOST, SIZES, Pace, Size, choose_plan
from d2tiny.engine.time_limit import TimeLimit
from d2tiny.utils.errors import ConfigError

EIGHT_MINUTES = 480.0
DEMO_PIXELS = 70 * 256**2 + 2 * 1600 * 1200


class Processor:
    """One that needs so many seconds for a million px of training, and longer for what is compiled once."""

    def __init__(
        self,
        per_megapixel: float,
        *,
        compile_seconds: float = 5.0,
        bf16: float | None = None,
        one_thread: float = 1.7,
    ) -> None:
        self.one_thread = one_thread
        self.per_megapixel, self.compile_seconds, self.bf16 = per_megapixel, compile_seconds, bf16
        self.now = 0.0
        self.measured: list[Size] = []

    def step(self, size: Size) -> float:
        factor = self.bf16 if size.bf16 and self.bf16 is not None else 1.0
        factor *= self.one_thread if size.threads == 1 else 1.0
        return 0.03 + size.pixels / 1e6 * self.per_megapixel * factor

    def measure(self, size: Size) -> Pace:
        first = self.step(size) + (0 if self.measured else self.compile_seconds)
        self.now += first + 4 * self.step(size)
        self.measured.append(size)
        return Pace(self.step(size), first)

    def plan(self, seconds: float = EIGHT_MINUTES):
        return choose_plan(
            self.measure, lambda: seconds - self.now, fast_bf16=self.bf16 is not None, pixels_after=DEMO_PIXELS
        )

    def seconds_of(self, plan) -> float:
        """What all of the demo takes: measuring, training, and looking at everything afterwards."""
        looking = DEMO_PIXELS / 1e6 * self.per_megapixel / 3
        return self.now + plan.iterations * self.step(plan.size) + looking + 3 * self.compile_seconds + 20


@pytest.mark.parametrize("per_megapixel", [0.2, 1.5, 4, 13, 25, 60])
@pytest.mark.parametrize("compile_seconds", [0.0, 5.0, 20.0])
def test_it_ends_in_time_on_any_processor(per_megapixel, compile_seconds):
    """13 s for a million px is a step of 2.7 s: two cores with AVX2 that others use too; the slowest needs 12 s."""
    processor = Processor(per_megapixel, compile_seconds=compile_seconds)
    plan = processor.plan()
    assert processor.seconds_of(plan) <= EIGHT_MINUTES
    assert 1 <= plan.iterations <= MOST
    # What is left over is the reserve, unless there is nothing more to gain.
    if plan.iterations < MOST:
        assert processor.seconds_of(plan) > 0.75 * EIGHT_MINUTES


def test_a_fast_processor_keeps_the_size():
    plan = Processor(1.0).plan()
    assert (plan.size, plan.iterations) == (SIZES[0], MOST)
    assert "650 iterations, as more than 650 gain little" in plan.reasons[-1]


def test_a_slow_processor_gets_smaller_iterations_until_enough_fit():
    processor = Processor(13.0)
    plan = processor.plan()
    assert processor.measured[0] == SIZES[0]
    assert processor.measured[-1] == plan.size
    assert plan.size != SIZES[0]
    assert plan.iterations >= FEWEST
    assert "batches of 8 crops of 160 px takes 2.69 s: too few fit, so they become smaller." in plan.reasons[2]


def test_a_very_slow_one_gets_the_smallest_and_as_many_as_fit():
    plan = Processor(60.0).plan()
    assert plan.size == SIZES[-1]
    assert plan.iterations < FEWEST


def test_no_time_left_is_one_iteration():
    assert Processor(13.0).plan(seconds=1.0).iterations == 1


def test_bf16_is_not_tried_without_instructions_for_it():
    processor = Processor(4.0)
    assert not processor.plan().size.bf16
    assert not any(size.bf16 for size in processor.measured)


@pytest.mark.parametrize(("factor", "taken"), [(0.5, True), (0.99, False), (3.0, False)])
def test_bf16_is_taken_where_it_is_faster(factor, taken):
    processor = Processor(13.0, bf16=factor)
    plan = processor.plan()
    assert plan.size.bf16 is taken
    assert {size.bf16 for size in processor.measured[3:]} <= {taken}  # and smaller sizes are measured in it
    assert plan.reasons[1].startswith("Precision: bfloat16" if taken else "Precision: float32")
    assert processor.seconds_of(plan) <= EIGHT_MINUTES


@pytest.mark.parametrize(("factor", "threads"), [(1.7, 0), (0.3, 1)])
def test_one_thread_is_taken_where_others_wait_for_each_other(factor, threads):
    processor = Processor(25.0, one_thread=factor)
    plan = processor.plan()
    assert plan.size.threads == threads
    assert {size.threads for size in processor.measured[2:]} <= {threads}
    assert plan.reasons[0].startswith("Threads: one thread" if threads else "Threads: several")


def test_a_fast_processor_is_not_asked_for_threads():
    processor = Processor(1.0)
    assert not processor.plan().size.threads
    assert len(processor.measured) == 1


def trainer_with(limit: TimeLimit, evaluated: list[int]) -> TrainerBase:
    """One whose iterations do nothing; notes what was taken for the last."""
    trainer = TrainerBase()
    trainer.run_step = lambda: None
    note = SimpleNamespace(
        **dict.fromkeys(("before_train", "after_train", "before_step", "after_backward"), lambda: None),
        after_step=lambda: evaluated.append(trainer.iter) if trainer.iter + 1 == trainer.max_iter else None,
    )
    trainer.register_hooks([limit])
    trainer._hooks.append(note)
    return trainer


def test_time_limit_makes_the_iteration_that_it_is_in_the_last(monkeypatch):
    now = iter([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    monkeypatch.setattr("d2tiny.engine.time_limit.time.monotonic", lambda: next(now))
    evaluated: list[int] = []
    trainer = trainer_with(TimeLimit(seconds=2.5), evaluated)
    with pytest.raises(EarlyStop):
        trainer.train(0, 100)
    assert evaluated == [2]  # begun after 3 s, as the first of which the time was over


def test_time_limit_changes_nothing_in_time():
    evaluated: list[int] = []
    trainer_with(TimeLimit(seconds=60), evaluated).train(0, 5)
    assert evaluated == [4]


def test_time_limit_refuses_no_time():
    with pytest.raises(ConfigError, match=r"TimeLimit\): seconds must be above 0, got 0"):
        TimeLimit(seconds=0)
