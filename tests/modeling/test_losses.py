from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torchvision.ops import complete_box_iou_loss

from d2tiny.modeling.losses import (
    DCLoss,
    IoULoss,
    NWDLoss,
    SALoss,
    SmoothL1Loss,
    dc_loss,
    dc_loss_slope,
    iou_loss,
    nwd_loss,
    reduce_loss,
    regression_loss,
    sal_weight,
)

# docs/papers/dcloss.md#test-vectors, k = 10, δ = 0.15: ε, L_A (formula), dL_A, L_B (prose), dL_B.
VECTORS = [
    (0.0, 0.0, 0.81757448, 0.0, 0.18242552),
    (0.05, 0.03722528, 0.66456205, 0.01527472, 0.43543795),
    (0.1, 0.06602134, 0.48646412, 0.04397866, 0.71353588),
    (0.15, 0.08625, 0.33125, 0.08625, 0.96875),
    (0.3, 0.12830936, 0.35976266, 0.26169064, 1.24023734),
    (0.5, 0.25732806, 0.92886744, 0.49267194, 1.07113256),
    (1.0, 1.0, 1.99979657, 1.0, 1.00020343),
    (2.0, 3.99999998, 4.00000016, 2.00000002, 0.99999984),
]
# ε, ∂L_A/∂k, ∂L_A/∂δ; those of B are their negatives.
PARAMETER_GRADIENTS = [
    (0.05, 0.00093391, 0.09339067),
    (0.1, 0.00105752, 0.21150334),
    (0.3, -0.00469811, 0.31320755),
    (0.5, -0.00248964, 0.07113256),
]

LOSSES = {
    "l1": lambda: SmoothL1Loss(),
    "smooth_l1": lambda: SmoothL1Loss(beta=0.11),
    "giou": lambda: IoULoss(kind="giou"),
    "diou": lambda: IoULoss(kind="diou"),
    "ciou": lambda: IoULoss(kind="ciou"),
    "iou": lambda: IoULoss(kind="iou"),
    "iou2": lambda: IoULoss(kind="iou2"),
    "nwd": lambda: NWDLoss(),
    "sal_iou2": lambda: SALoss(),
    "sal_giou": lambda: SALoss(base="giou"),
    "sal_image": lambda: SALoss(stat_mode="image"),
    "dc_prose": lambda: DCLoss(),
    "dc_formula": lambda: DCLoss(mode="formula"),
    "dc_bounded": lambda: DCLoss(learnable="bounded"),
    "dc_ema": lambda: DCLoss(learnable="ema").eval(),
}


def sample(space, count, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if space == "delta":
        pred, target = torch.randn(2, count, 4, generator=generator, dtype=dtype)
        return pred, target
    corner = torch.rand(2, count, 2, generator=generator, dtype=dtype) * 4
    boxes = torch.cat((corner, corner + torch.rand(2, count, 2, generator=generator, dtype=dtype) * 8 + 2), -1)
    return boxes[0], boxes[1]


@pytest.mark.parametrize(("eps", "loss_a", "slope_a", "loss_b", "slope_b"), VECTORS)
def test_dc_vectors(eps, loss_a, slope_a, loss_b, slope_b):
    for mode, loss, slope in (("formula", loss_a, slope_a), ("prose", loss_b, slope_b)):
        error = torch.tensor(eps, dtype=torch.float64, requires_grad=True)
        value = dc_loss(error, mode=mode)
        assert float(value.detach()) == pytest.approx(loss, abs=1e-7)
        assert float(dc_loss_slope(error.detach(), k=10, delta=0.15, mode=mode)) == pytest.approx(slope, abs=1e-7)
        (gradient,) = torch.autograd.grad(value, error)
        assert float(gradient) == pytest.approx(slope, abs=1e-7)


def test_dc_readings_add_up():
    error = torch.linspace(0, 3, 50, dtype=torch.float64)
    torch.testing.assert_close(dc_loss(error, mode="formula") + dc_loss(error, mode="prose"), error**2 + error)


@pytest.mark.parametrize(("eps", "by_k", "by_delta"), PARAMETER_GRADIENTS)
def test_dc_parameter_gradients(eps, by_k, by_delta):
    for mode, sign in (("formula", 1), ("prose", -1)):
        k = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
        delta = torch.tensor(0.15, dtype=torch.float64, requires_grad=True)
        dc_loss(torch.tensor(eps, dtype=torch.float64), k=k, delta=delta, mode=mode).backward()
        assert float(k.grad) == pytest.approx(sign * by_k, abs=1e-7)
        assert float(delta.grad) == pytest.approx(sign * by_delta, abs=1e-7)


@pytest.mark.parametrize("mode", [0, 1])
def test_dc_in_units_of_a_box_head(mode):
    """unit · L(ε / unit): errors of 10 ε cost 10 L(ε), with the slope at ε; the table has formula, then prose."""
    loss = DCLoss(mode=("formula", "prose")[mode], unit=10.0)
    for error, *columns in VECTORS:
        value, slope = columns[2 * mode : 2 * mode + 2]
        pred = torch.full((1, 4), 10 * error, dtype=torch.float64, requires_grad=True)
        result = loss(pred, torch.zeros(1, 4, dtype=torch.float64), avg_factor=4)
        assert float(result.detach()) == pytest.approx(10 * value, abs=1e-6)
        result.backward()
        if error:
            assert pred.grad[0, 0].item() * 4 == pytest.approx(slope, abs=1e-6)
    with pytest.raises(ValueError, match="unit must be > 0, got 0"):
        DCLoss(unit=0)


def test_dc_refuses_a_loss_that_falls():
    """With δ = 0.15 the formula is monotone below k = 17.14 only."""
    DCLoss(mode="formula", k=17.0)
    with pytest.raises(ValueError, match="falls where the error grows"):
        DCLoss(mode="formula", k=17.3)
    DCLoss(mode="formula", k=17.3, allow_nonmonotone=True)
    DCLoss(mode="prose", k=40)


def test_dc_bounded_starts_at_the_published_values_and_stays_inside():
    loss = DCLoss(learnable="bounded")
    k, delta = loss.current_parameters()
    assert float(k.detach()) == pytest.approx(10, abs=1e-5)
    assert float(delta.detach()) == pytest.approx(0.15, abs=1e-6)
    optimizer = torch.optim.SGD(loss.parameters(), lr=5.0)
    for _ in range(200):
        optimizer.zero_grad()
        loss(torch.randn(64, 4) * 0.2, torch.zeros(64, 4)).backward()
        optimizer.step()
    k, delta = loss.current_parameters()
    assert 5 <= float(k.detach()) <= 14
    assert 0.05 <= float(delta.detach()) <= 0.5


def test_dc_ema_by_hand():
    """δ ← 0.99·0.15 + 0.01·0.4, then unchanged without positives and in eval mode."""
    loss = DCLoss(learnable="ema")
    loss(torch.full((3, 4), 0.4), torch.zeros(3, 4))
    assert float(loss.ema_delta) == pytest.approx(0.1525)
    loss(torch.zeros(0, 4), torch.zeros(0, 4))
    loss.eval()(torch.ones(3, 4), torch.zeros(3, 4))
    assert float(loss.ema_delta) == pytest.approx(0.1525)
    assert "ema_delta" in loss.state_dict()


@pytest.mark.parametrize("name", sorted(LOSSES))
class TestContract:
    def test_gradcheck(self, name):
        if name == "ciou":
            pytest.skip("CIoU's trade-off α is a constant in its gradient, by definition")
        loss = LOSSES[name]().double()
        pred, target = sample(loss.space, 5, torch.float64)
        pred.requires_grad_()
        assert torch.autograd.gradcheck(lambda p: loss(p, target, avg_factor=3.0), (pred,))

    def test_perfect_prediction(self, name):
        loss = LOSSES[name]()
        _, target = sample(loss.space, 5)
        assert loss(target.clone(), target).item() == pytest.approx(0, abs=1e-4)  # NWD has ε under its root

    def test_no_positive_is_finite_with_a_gradient(self, name):
        loss = LOSSES[name]()
        pred = torch.zeros(0, 4, requires_grad=True)
        value = loss(pred, torch.zeros(0, 4), avg_factor=256)
        value.backward()
        assert torch.isfinite(value)
        assert pred.grad is not None
        for parameter in loss.parameters():
            assert parameter.grad is not None

    def test_weights_and_divisor(self, name):
        loss = LOSSES[name]()
        if name == "dc_bounded":
            pytest.skip("its pull on k and δ is not divided")
        pred, target = sample(loss.space, 4)
        weight = torch.tensor([1.0, 0, 0, 0])
        alone = loss._elementwise(pred, target, None)[0].sum()  # SAL's weights depend on all positives
        torch.testing.assert_close(loss(pred, target, weight=weight, avg_factor=2.0), alone / 2)

    def test_permutation(self, name):
        loss = LOSSES[name]()
        pred, target = sample(loss.space, 9)
        order = torch.randperm(9)
        torch.testing.assert_close(loss(pred[order], target[order]), loss(pred, target))

    def test_autocast_keeps_float32(self, name):
        loss = LOSSES[name]()
        pred, target = sample(loss.space, 6)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(pred.bfloat16(), target)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(pred.bfloat16().float(), target))

    def test_shapes_must_agree(self, name):
        with pytest.raises(ValueError, match="same shape"):
            LOSSES[name]()(torch.zeros(3, 4), torch.zeros(2, 4))


def test_l1_by_hand():
    """|1|+|2|+|3|+|4| = 10, over the default divisor of 4 elements."""
    pred = torch.tensor([[1.0, -2, 3, -4]])
    assert float(SmoothL1Loss()(pred, torch.zeros(1, 4))) == 2.5


def test_giou_by_hand():
    """4×4 boxes 2 px apart: GIoU 1/3, loss 2/3 (see test_gaussian)."""
    pred, target = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 0, 6, 4]])
    assert float(IoULoss(kind="giou")(pred, target, avg_factor=1.0)) == pytest.approx(2 / 3, abs=1e-5)


def test_reduce_of_nothing():
    assert float(reduce_loss(torch.zeros(0), None, None)) == 0


@pytest.mark.parametrize(
    "build",
    [
        lambda: DCLoss(mode="text"),
        lambda: DCLoss(learnable="free"),
        lambda: DCLoss(k=-1),
        lambda: DCLoss(k=20, learnable="bounded"),
        lambda: IoULoss(kind="iou3"),
        lambda: SmoothL1Loss(beta=-1),
    ],
)
def test_bad_settings(build):
    with pytest.raises(ValueError, match=r"must|needs|unknown"):
        build()


def test_dc_max_gradient():
    """docs/papers/dcloss.md#slope-and-monotonicity: B's slope is between 0.1824 (at 0) and 1.245 for k = 10."""
    slope = dc_loss_slope(torch.linspace(0, 4, 40001, dtype=torch.float64), k=10, delta=0.15)
    assert float(slope.min()) == pytest.approx(1 - 1 / (1 + math.exp(-1.5)), abs=1e-6)
    assert float(slope.max()) == pytest.approx(1.245, abs=1e-3)


# docs/papers/sal.md#test-vectors (1.5 + 1.1608199624 + .8495478144): areas 16 to 400 px², IoU .5 .6 .7 .8.
SAL_BOXES = torch.tensor([[0, 0, 4, 4], [0, 0, 8, 8], [0, 0, 10, 10], [0, 0, 20, 20]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("beta", "weights", "total"),
    [
        (2 / math.log(2), [2, 1.8137811912, 1.6657800283, 0], 3.5103677768),
        (1 / math.log(2), [1, 0.9068905956, 0.8328900142, 0], 1.7551838884),
        (1.0, [0.6931471806, 0.6286086594, 0.577315365, 0], 1.2166007636),
    ],
)
def test_sal_vectors(beta, weights, total):
    """A box of the same corner and width and IoU times the height has that IoU."""
    area = torch.tensor([16.0, 64, 100, 400], dtype=torch.float64)
    assert sal_weight(area, area.min(), area.max(), beta).tolist() == pytest.approx(weights, abs=1e-9)
    pred = SAL_BOXES.clone()
    pred[:, 3] *= torch.tensor([0.5, 0.6, 0.7, 0.8], dtype=torch.float64)
    assert float(SALoss(beta=beta)(pred, SAL_BOXES, avg_factor=1)) == pytest.approx(total, abs=2e-9)


def test_sal_gives_the_largest_object_no_gradient_and_does_not_mind_the_order():
    pred = (SAL_BOXES + 0.7).requires_grad_()
    SALoss()(pred, SAL_BOXES, avg_factor=1).backward()
    assert not pred.grad[3].any()
    assert pred.grad[:3].abs().sum(dim=1).min() > 0
    order = torch.tensor([2, 0, 3, 1])
    a, b = SALoss()(pred, SAL_BOXES), SALoss()(pred[order], SAL_BOXES[order])
    assert float(a.detach()) == pytest.approx(float(b.detach()))


def test_sal_of_one_object_or_equal_ones_is_the_base_loss():
    """s = 0: with β = 1/ln 2 the weight is 1."""
    pred, target = SAL_BOXES[:1] + 1, SAL_BOXES[:1]
    base = float(IoULoss(kind="iou2")(pred, target))
    assert float(SALoss(beta=1 / math.log(2))(pred, target)) == pytest.approx(base)
    assert float(SALoss(beta=1 / math.log(2))(pred.repeat(3, 1), target.repeat(3, 1))) == pytest.approx(base)


def test_sal_statistics_of_each_image():
    """Two images: areas 16 and 64, 100 and 400; the larger of each gets nothing."""
    pred = SAL_BOXES + 0.5
    loss = SALoss(stat_mode="image")
    value = loss(pred, SAL_BOXES, avg_factor=1, groups=torch.tensor([0, 0, 3, 3]))
    base = IoULoss(kind="iou2")
    expected = 2 * float(base(pred[[0]], SAL_BOXES[[0]])) + 2 * float(base(pred[[2]], SAL_BOXES[[2]]))
    assert float(value) == pytest.approx(expected)


def test_sal_moving_statistics_are_saved_and_move_slowly():
    loss = SALoss(stat_mode="ema")
    loss(SAL_BOXES + 0.5, SAL_BOXES)
    assert loss.state_dict()["area_range"].tolist() == [16, 400]
    loss(SAL_BOXES[1:3] + 0.5, SAL_BOXES[1:3])
    assert loss.area_range.tolist() == pytest.approx([16 * 0.99 + 0.64, 400 * 0.99 + 1.0])
    loss.eval()(SAL_BOXES[:1], SAL_BOXES[:1])
    loss(SAL_BOXES[:0], SAL_BOXES[:0])
    assert loss.area_range.tolist() == pytest.approx([16.48, 397.0])


def test_nwd_vectors():
    """docs/papers/nwd.md#test-vectors: shifts of (1, 1): 1 − .895399, of (4, 4): 1 − .642787, for any size of box."""
    for side in (6.0, 36.0):
        box = torch.tensor([[0, 0, side, side]], dtype=torch.float64)
        assert float(nwd_loss(box + 1, box)) == pytest.approx(0.104601, abs=1e-6)
        assert float(nwd_loss(box + 4, box)) == pytest.approx(1 - 0.642787, abs=1e-6)
    same = box.clone().requires_grad_()
    nwd_loss(same, box).sum().backward()
    assert torch.isfinite(same.grad).all()


def test_regression_loss_adds_l1_of_the_deltas():
    from detectron2.modeling.box_regression import Box2BoxTransform

    coder = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    priors = torch.tensor([[0.0, 0, 8, 8], [4, 4, 20, 12]])
    targets, deltas = priors + 1, torch.zeros(2, 4)
    plain = regression_loss(SALoss(), coder, deltas, priors, targets, avg_factor=2)
    more = regression_loss(SALoss(l1_weight=3.0), coder, deltas, priors, targets, avg_factor=2)
    # deltas 1/8, 1/8 and 1/16, 1/8, sizes equal: means .0625 and .046875
    assert float(more - plain) == pytest.approx(3 * (0.0625 + 0.046875) / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SALoss(base="iou3"), "Did you mean"),
        (lambda: SALoss(stat_mode="x"), "stat_mode"),
        (lambda: SALoss(beta=0.0), "beta > 0"),
        (lambda: NWDLoss(constant=0.0), "constant"),
        (lambda: IoULoss(kind="x"), "unknown kind"),
    ],
)
def test_bad_settings_of_box_losses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", ["ciou", "iou", "iou2", "giou", "diou"])
@pytest.mark.parametrize(
    ("x", "deltas"), [(700.0, (0, 0, 0, -12.0)), (1e4, (0, 0, -10.0, 0)), (700.0, (0, 0, -12.0, -12.0))]
)
def test_a_predicted_side_of_zero_gives_a_finite_gradient(kind, x, deltas):
    """exp(−12) · 4 px is lost in float32 corners of several hundred px: the predicted box has no width."""
    prior = torch.tensor([[x, x, x + 4, x + 4]])
    given = torch.tensor([deltas], requires_grad=True)
    coder = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    loss = regression_loss(IoULoss(kind=kind), coder, given, prior, prior + 1, avg_factor=1.0)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(given.grad).all())


def test_ciou_equals_torchvision():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=generator, dtype=torch.float64) * 20
    pred = torch.cat((corner, corner + 1 + torch.rand(200, 2, generator=generator, dtype=torch.float64) * 20), 1)
    target = pred.flip(0) + 0.5
    torch.testing.assert_close(
        iou_loss(pred, target, "ciou"), complete_box_iou_loss(pred, target), rtol=1e-5, atol=1e-6
    )


def test_moving_delta_is_checked_over_its_range():
    with pytest.raises(ValueError, match=r"delta=0\.\d+ the loss falls"):
        DCLoss(mode="formula", k=17, learnable="ema")
    with pytest.raises(ValueError, match=r"cannot start at 0\.01"):
        DCLoss(delta=0.01, learnable="ema")
