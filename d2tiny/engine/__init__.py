"""Training loop, hooks, checkpoints."""

from d2tiny.engine.run import evaluate, run

__all__ = ["evaluate", "run"]
