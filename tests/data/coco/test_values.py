"""Ids, flags, sizes and numbers: what is written, and what it means."""

from __future__ import annotations

import math

import numpy as np
import pytest

from d2tiny.data.coco.values import MAX_SIDE, parse_flag, parse_id, parse_number, parse_size

NONSENSE = [None, [1], {"0": 1}, {}, [], "", " ", float("nan"), float("inf")]


@pytest.mark.parametrize("value", [7, 7.0, "7", "0007", " 7 ", "+7"])
def test_one_id_however_it_is_written(value):
    assert parse_id(value) == 7


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        ("1_23", "1_23"),  # int() reads 123
        ("１２", "１２"),
        ("img_a ", "img_a"),
        ("7.0", "7.0"),  # the stem of a file, perhaps
        (0, 0),
        ("-3", -3),
        (2**63 - 1, 2**63 - 1),
        (str(2**63), "9223372036854775808"),
        (np.int32(5), 5),
        (np.float32(5), 5),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_ids_that_are_text_stay_text(value, meaning):
    assert parse_id(value) == meaning


@pytest.mark.parametrize(
    "value", [*NONSENSE, True, False, np.True_, 1.5, 1e300, 2**63, pytest.param(10**5000, id="5000 digits")]
)
def test_what_can_be_no_id(value):
    assert parse_id(value) is None


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "1.0", "true", "True", " YES "])
def test_flags_that_are_set(value):
    assert parse_flag(value) is True


@pytest.mark.parametrize("value", [False, 0, 0.0, -0.0, "0", "0.0", "false", "False", "no", None, "", "Unspecified"])
def test_flags_that_are_not_set(value):
    assert parse_flag(value) is False


@pytest.mark.parametrize("value", [2, -1, 0.5, "2", "maybe", "1_0", float("nan"), [0], {}, [], 10**400])
def test_what_is_no_flag(value):
    assert parse_flag(value) is None


@pytest.mark.parametrize("value", [64, 64.0, "64", "64.0", " 64 ", "6.4e1"])
def test_sizes(value):
    assert parse_size(value) == 64


@pytest.mark.parametrize("value", [*NONSENSE, 0, -64, 64.5, True, "6_4", "64px", MAX_SIDE + 1, 10**400])
def test_what_is_no_size(value):
    assert parse_size(value) is None


@pytest.mark.parametrize(("value", "number"), [(5, 5.0), ("5", 5.0), ("-.5", -0.5), ("5.", 5.0), ("1e3", 1000.0)])
def test_numbers(value, number):
    assert parse_number(value) == number


@pytest.mark.parametrize("value", [None, True, [5], {"0": 5}, "", "1_23", "5px", "0x10", "１２", "5 6"])
def test_what_is_no_number(value):
    assert parse_number(value) is None


@pytest.mark.parametrize("value", [float("nan"), "NaN", "-inf", "Infinity", 10**400, "1e999"])
def test_numbers_that_are_not_finite_are_left_to_the_caller(value):
    assert not math.isfinite(parse_number(value))
