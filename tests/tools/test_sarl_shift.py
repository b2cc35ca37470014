"""The benchmark that tells how far SARL's pooled values move from crops to whole images."""

from __future__ import annotations

import pytest

from tests.helpers.benchmarks import value_in_benchmarks

SHIFTS = """sarl_shift.shifts(
    {kind: [sarl_shift.torch.tensor(v) for v in ([4., 0.], [6., 0.])] for kind in ("mean", "attention")},
    {kind: [sarl_shift.torch.tensor(v) for v in ([1., 0.], [3., 0.])] for kind in ("mean", "attention")})"""
WINDOWS = """[part.flatten().tolist() for part in sarl_shift.windows(sarl_shift.torch.arange(8.).view(1, 2, 4), 3)]"""


@pytest.fixture(scope="module")
def found():
    return value_in_benchmarks("sarl_shift", f"[{SHIFTS}, {WINDOWS}]".replace("\n", " "))


def test_shifts_in_deviations_of_the_windows(found):
    """By hand: means 5 and 2, deviation √2; the second channel never fires, and counts for the attention alone."""
    assert found[0] == {"mean": pytest.approx(3 / 2**0.5, abs=1e-3), "attention": 1.5}


def test_windows_cover_an_image(found):
    """Two rows of four columns in windows of three: the last one ends at the border."""
    assert found[1] == [[0.0, 1.0, 2.0, 4.0, 5.0, 6.0], [1.0, 2.0, 3.0, 5.0, 6.0, 7.0]]
