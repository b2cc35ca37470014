"""Lowest scores of detections, by class."""

from __future__ import annotations

import json
from types import MappingProxyType

import numpy as np
import pytest

from d2tiny.cli.common import SCORE, lowest_scores
from d2tiny.inference.run import RunSettings
from d2tiny.inference.scores import OTHERS, USUAL_SCORE, ScoreThresholds, scores_text
from d2tiny.utils.errors import ConfigError

CLASSES = ("car", "ship", "person")


def test_one_for_all():
    thresholds = ScoreThresholds(0.5, CLASSES)
    assert (thresholds.lowest, thresholds.of_class) == (0.5, None)
    np.testing.assert_array_equal(thresholds.kept(np.array([0.5, 0.51]), np.array([0, 1])), [False, True])
    same = ScoreThresholds({"ship": 0.2, "*": 0.2}, CLASSES)
    assert (same.lowest, same.of_class) == (0.2, None)


@pytest.mark.parametrize("scores", [{"ship": 0.9, "*": 0.3}, {"ship": 0.9, "car": 0.3, "person": 0.3}])
def test_by_class(scores):
    thresholds = ScoreThresholds(scores, CLASSES)
    assert thresholds.lowest == 0.3
    classes, values = np.array([0, 1, 1, 2]), np.array([0.4, 0.4, 0.95, 0.3], np.float32)
    np.testing.assert_array_equal(thresholds.kept(values, classes), [True, False, True, False])
    assert thresholds.kept(values[:0], classes[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (1.5, r"--score must be in \[0, 1\], got 1\.5\."),
        (float("nan"), "got nan"),
        ({"ship": -1, "*": 0.3}, r"got -1\.0 of ship\."),
        ({"shipp": 0.5, "*": 0.3}, r"--score shipp=…: the detector has no such class\. Did you mean 'ship'"),
        ({"ship": 0.5}, r"there is none for car, person\. Add one for all others"),
    ],
)
def test_wrong_scores(scores, message):
    with pytest.raises(ConfigError, match=message):
        ScoreThresholds(scores, CLASSES)


def test_the_command_line_has_the_same_words():
    """It repeats them, because it imports nothing heavy."""
    assert lowest_scores("ship=0.5") == {OTHERS: USUAL_SCORE, "ship": 0.5}
    assert RunSettings().score == SCORE == USUAL_SCORE


def test_records_have_plain_numbers_in_one_order():
    settings = RunSettings(score=MappingProxyType({"ship": np.float32(0.5), "car": 1, "*": 0.25}))
    assert json.dumps(settings.score) == '{"*": 0.25, "car": 1.0, "ship": 0.5}'
    assert scores_text(settings.score) == "car 1, ship 0.5, others 0.25"
    assert scores_text({"ship": 0.5}) == "ship 0.5"
    assert scores_text(RunSettings().score) == "0.3"
