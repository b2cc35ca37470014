"""The benchmark of sparse encoders."""

from __future__ import annotations

from tests.helpers.benchmarks import value_in_benchmarks


def test_the_floor_counts_what_is_computed():
    """Inference multiplies by operators that PyTorch's counter does not know: all floors were 0."""
    row = value_in_benchmarks("sparse_encoder", "sparse_encoder.measure('dino, sparse', 2, 128, 1, [])")
    assert row["floor_seconds"]["model"] > row["floor_seconds"]["backbone"] > 0
    assert row["floor_seconds"]["encoder"] > 0
    assert 0.06 < row["tokens"] < 0.5
