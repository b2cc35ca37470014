"""Losses at the end of a training, as the benchmark of contexts tells them."""

from __future__ import annotations

import json

from tests.helpers.benchmarks import value_in_benchmarks


def test_losses_of_the_last_iterations(tmp_path):
    """Records of evaluations and iterations before the last 200 do not count."""
    records = [{"iteration": i, "total_loss": float(i), "loss_cls": 1.0, "lr": 0.1} for i in (99, 799, 899, 999)]
    lines = [json.dumps(record) for record in (*records, {"iteration": 999, "AP": 20.0})]
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    losses = value_in_benchmarks("context", f"context.last_losses(Path({str(tmp_path)!r}))")
    assert losses == {"total_loss": 949.0, "loss_cls": 1.0}
