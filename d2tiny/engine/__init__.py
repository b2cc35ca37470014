"""Training: loop, hooks, schedules, optimizer groups and checkpoints."""

from d2tiny.engine.run import Evaluation, run

__all__ = ["Evaluation", "run"]
