"""docs/papers/rfla.md#test-vectors, gt = [100, 100, 108, 108], that is centre (104, 104) and size (8, 8)."""

from __future__ import annotations

import math

import pytest
import torch

from d2tiny.ops.gaussian import SCORES, get_score, giou_score, kld, wasserstein2

GT = (104.0, 104.0, 8.0, 8.0)
# prior (cx, cy, w, h) -> KLD, kl score, squared Wasserstein, wd score
VECTORS = [
    ((104, 104, 22.5, 22.5), 4.842007601636171, 0.17117403265958264, 105.125001, 0.00942285),
    ((108, 104, 22.5, 22.5), 5.342007476636194, 0.1576787797371694, 121.125001, 0.00818833),
    (
        (104, 104, 31.8198051533946, 15.9099025766973),
        6.819546207011159,
        0.1278846589720744,
        157.48742007963224,
        0.00630965,
    ),
    ((108, 108, 45.5, 45.5), 28.871107972451966, 0.033477164654295045, 735.125001, 0.00135846),
    ((104, 104, 8, 8), 0.0, 1.0, 1e-6, 0.9999990000010001),
]


def parts(prior, gt=GT):
    values = (prior[0] - gt[0], prior[1] - gt[1], prior[2], prior[3], gt[2], gt[3])
    return [torch.tensor(v, dtype=torch.float64) for v in values]


@pytest.mark.parametrize(("prior", "divergence", "kl", "w2", "wd"), VECTORS)
def test_vectors(prior, divergence, kl, w2, wd):
    assert float(kld(*parts(prior))) == pytest.approx(divergence, rel=1e-6, abs=1e-9)
    assert float(SCORES["kld"](*parts(prior))) == pytest.approx(kl, rel=1e-6)
    assert float(wasserstein2(*parts(prior))) == pytest.approx(w2, rel=1e-9)
    assert float(SCORES["wd"](*parts(prior))) == pytest.approx(wd, rel=1e-5)


def test_the_ground_truth_is_the_reference():
    """The reverse divergence of row 1 is 1.1945671, far from 4.842."""
    reverse = kld(*parts(GT, VECTORS[0][0]))
    assert float(reverse) == pytest.approx(1.1945671, rel=1e-5)


@pytest.mark.parametrize("metric", SCORES)
def test_exchanging_x_and_y_changes_no_bit(metric):
    """What ties by symmetry must tie: neighbours of a square object, anchors of ratios 0.5 and 2."""
    values = torch.rand(6, 2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 40 + 1
    dx, dy, pw, ph, gw, gh = values
    assert torch.equal(SCORES[metric](dx, dy, pw, ph, gw, gh), SCORES[metric](dy, dx, ph, pw, gh, gw))


def test_rectangle():
    args = parts((52, 41, 22.5, 22.5), (50, 40, 12, 6))
    assert float(kld(*args)) == pytest.approx(5.9498074, rel=1e-6)
    assert float(SCORES["kld"](*args)) == pytest.approx(0.14388888, rel=1e-6)


def test_variants():
    """1/(10+D) and exp(−D/10) at D = 4.842007601636171."""
    args = parts(VECTORS[0][0])
    assert float(SCORES["kld_10"](*args)) == pytest.approx(1 / 14.842007601636171, rel=1e-6)
    assert float(SCORES["kld_exp"](*args)) == pytest.approx(math.exp(-0.4842007601636171), rel=1e-6)


def test_giou_by_hand():
    """4×4 boxes, 2 px apart: I = 8, U = 24, hull = 6·4 = 24, so GIoU = 1/3; 6 px apart: I = 0, U = 32, hull = 40."""
    assert float(giou_score(*parts((2, 0, 4, 4), (0, 0, 4, 4)))) == pytest.approx(1 / 3, rel=1e-6)
    assert float(giou_score(*parts((6, 0, 4, 4), (0, 0, 4, 4)))) == pytest.approx(-0.2, rel=1e-6)


@pytest.mark.parametrize("metric", sorted(SCORES))
def test_scores_never_rise_with_distance(metric):
    """What makes the windowed search exact."""
    generator = torch.Generator().manual_seed(0)
    size = torch.exp(torch.rand(200, 4, generator=generator, dtype=torch.float64) * 5 + 0.7)
    step = torch.linspace(0, 200, 401, dtype=torch.float64)
    for other in (0.0, 3.0, 50.0):
        along = SCORES[metric](step, torch.tensor(other).double(), *(s[:, None] for s in size.T))
        assert (along.diff(dim=1) <= 1e-12).all()
        along = SCORES[metric](torch.tensor(other).double(), step, *(s[:, None] for s in size.T))
        assert (along.diff(dim=1) <= 1e-12).all()


def test_unknown_metric():
    with pytest.raises(ValueError, match="Did you mean 'giou'"):
        get_score("gious")
