"""How two sets of detections are compared."""

import numpy as np
import pytest

from d2tiny.export.comparison import compare, drawn_images, verify
from d2tiny.runtime import ArrayDetections
from d2tiny.utils.errors import ConfigError


def _found(*rows):
    boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    scores, classes = (np.array([row[i] for row in rows]) for i in (4, 5))
    return ArrayDetections(boxes, scores.astype(np.float32), classes.astype(np.int32))


def test_differences_are_those_of_pairs_in_any_order():
    one = _found((0, 0, 8, 8, 0.9, 0), (20, 20, 30, 31, 0.5, 1))
    other = _found((20, 20.02, 30, 31, 0.5004, 1), (0, 0, 8.01, 8, 0.9, 0))
    result = compare(one, other)
    assert (result.detections, result.changed) == (2, 0)
    assert result.boxes == pytest.approx(0.02, abs=1e-5) and result.scores == pytest.approx(4e-4, abs=1e-6)


@pytest.mark.parametrize(
    "row",
    [
        (0, 0, 8.06, 8, 0.9, 0),  # a box too far
        (0, 0, 8, 8, 0.902, 0),  # another score
        (0, 0, 8, 8, 0.9, 1),  # another class
    ],
)
def test_what_is_beyond_a_limit_has_no_partner(row):
    assert compare(_found((0, 0, 8, 8, 0.9, 0)), _found(row)).changed == 2


def test_a_detection_has_one_partner():
    twice = _found((0, 0, 8, 8, 0.9, 0), (0, 0, 8, 8, 0.9, 0))
    assert compare(twice, _found((0, 0, 8, 8, 0.9, 0))).changed == 1
    assert compare(twice, _found()).changed == 2


def test_verification_adds_up_images():
    found = _found((0, 0, 8, 8, 0.9, 0))
    result = verify(lambda image: found, lambda image: found, drawn_images(((32, 64), (40, 33))))
    assert result.exact and result.images == 2 and result.sizes == [(32, 64), (40, 33)]
    assert not verify(lambda image: found, lambda image: _found(), drawn_images(((32, 64),))).exact
    with pytest.raises(ConfigError, match="no images"):
        verify(lambda image: found, lambda image: found, [])
