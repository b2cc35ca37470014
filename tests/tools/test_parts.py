"""What benchmarks say of parts of detectors: errors where a box loss acts, masks and levels."""

from __future__ import annotations

import pytest

from tests.helpers.benchmarks import value_in_benchmarks

ERRORS = "box_errors.summary(box_errors.torch.tensor([[0.0, 0.3, 1.0, 2.0]]))"
PLACES = """[sorted(box_errors.places_of(instantiate(load_config(name).model))) for name in
    ("quick/faster_rcnn_r18_fpn_rfla", "quick/cascade_rcnn_r18_fpn_rfla")]"""
MOMENTS = "masks._moments(masks.torch.tensor([[1.0, 5.0, 0.25], [3.0, 5.0, 0.75]], dtype=masks.torch.float64))"


def test_slopes_of_losses_at_errors_by_hand():
    """docs/papers/dcloss.md#test-vectors: of centres 0 and 0.3, of sizes 1 and 2."""
    setup = "setattr(box_errors, 'torch', __import__('torch'))"
    _, found = value_in_benchmarks("box_errors", f"[{setup}, {ERRORS}]")
    centres, sizes = found["centres"], found["sizes"]
    assert centres["share under δ"] == 0.5
    assert sizes["share under δ"] == 0
    assert centres["slope of DCLoss, prose"] == pytest.approx((0.18242552 + 1.24023734) / 2, abs=1e-3)
    assert centres["slope of DCLoss, formula"] == pytest.approx((0.81757448 + 0.35976266) / 2, abs=1e-3)
    assert sizes["slope of DCLoss, formula"] == pytest.approx((1.99979657 + 4.00000016) / 2, abs=1e-3)
    assert (centres["slope of smooth L1, β = 1"], sizes["slope of smooth L1, β = 1"]) == (0.15, 1.0)
    assert sizes["50 %"] == 1.5


def test_places_with_a_box_loss():
    imports = "box_errors; from detectron2.config import instantiate; from d2tiny.config import load_config"
    stages = [f"box head, stage {stage}" for stage in range(3)]
    assert value_in_benchmarks(imports, PLACES.replace("\n", " ")) == [["RPN", "box head"], ["RPN", *stages]]


def test_moments_of_levels():
    """Means over images: of the values 2, of their squares 5, so that the deviation is 1."""
    assert value_in_benchmarks("masks", MOMENTS) == {"std": 1.0, "negative": 0.5}
