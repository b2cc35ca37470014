"""Lowest scores of detections: one for all classes, or one for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from d2tiny.utils.errors import ConfigError, did_you_mean

__all__ = ["OTHERS", "USUAL_SCORE", "ScoreThresholds", "Scores", "plain_scores", "scores_text"]

OTHERS = "*"  # the classes that are not named
USUAL_SCORE = 0.3
Scores: TypeAlias = float | Mapping[str, float]
"""A lowest score in [0, 1], or one by class name, where ``*`` is that of all others."""


def plain_scores(scores: Scores) -> float | dict[str, float]:
    """Return lowest scores as json has them, classes in alphabetical order: equal ones give equal bytes.

    Raises:
        ConfigError: one is outside [0, 1]; says of which class.
    """
    named = scores if isinstance(scores, Mapping) else {OTHERS: scores}
    plain = {name: float(score) for name, score in sorted(named.items())}
    for name, score in plain.items():
        if not 0 <= score <= 1:
            of = "" if name == OTHERS else f" of {name}"
            raise ConfigError(f"--score must be in [0, 1], got {score}{of}.")
    return plain if isinstance(scores, Mapping) else plain[OTHERS]


def scores_text(scores: Scores) -> str:
    """Return lowest scores as people read them: ``0.3``, or ``ship 0.5, others 0.3``."""
    if not isinstance(scores, Mapping):
        return f"{scores:g}"
    named = [f"{name} {score:g}" for name, score in sorted(scores.items()) if name != OTHERS]
    others = [f"others {scores[OTHERS]:g}"] if OTHERS in scores else []
    return ", ".join(named + others)


class ScoreThresholds:
    """The lowest scores of the classes of a detector.

    Attributes:
        lowest: of all classes, which the detector itself may leave out.
        of_class: (K,) float64 by class number; None where all have the same.
    """

    def __init__(self, scores: Scores, classes: Sequence[str]) -> None:
        """Combine.

        Args:
            scores: the lowest scores.
            classes: K class names.

        Raises:
            ConfigError: a score outside [0, 1], a class that the detector does not know or, without ``*``, a class
                without a score; says which there are.
        """
        plain = plain_scores(scores)
        self.of_class: np.ndarray | None = None
        if not isinstance(plain, dict):
            self.lowest = plain
            return
        scores = plain
        for name in scores:
            if name != OTHERS and name not in classes:
                raise ConfigError(f"--score {name}=…: the detector has no such class. {did_you_mean(name, classes)}")
        missing = [name for name in classes if name not in scores]
        if missing and OTHERS not in scores:
            raise ConfigError(f"--score: there is none for {', '.join(missing)}. Add one for all others, '{OTHERS}'.")
        values = np.array([scores[OTHERS if name in missing else name] for name in classes], np.float64)
        self.lowest = float(values.min(initial=1.0))
        if (values != self.lowest).any():
            self.of_class = values

    def kept(self, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return which of N detections are above the lowest score of their class: (N,) bool.

        Args:
            scores: (N,).
            classes: (N,) integers from 0 to K - 1.
        """
        if self.of_class is None:
            return scores > self.lowest
        # As numbers of the same precision, so that 0.3 is not above 0.3.
        return scores > self.of_class.astype(scores.dtype)[classes]
