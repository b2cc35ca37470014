"""SimOTA, TAL and YOLOv5's matching against slow loops, and what they promise."""

from __future__ import annotations

import math

import pytest
import torch

from d2tiny.modeling.assigners import Predictions, RatioAssigner, SimOTAAssigner, TALAssigner
from d2tiny.modeling.priors import GridLevel, GridPriors
from tests.helpers.boxes import points
from tests.reference import yolo_assigners as slow


def case(seed, count=20, size=128, classes=3, large=120, astray=0.3):
    """Objects of all sizes, and predictions that are near some of them."""
    generator = torch.Generator().manual_seed(seed)
    priors = points(size)
    corner = torch.rand(count, 2, generator=generator) * (size - 8)
    gts = torch.cat((corner, corner + 2 + torch.rand(count, 2, generator=generator) ** 3 * large), 1)
    labels = torch.randint(0, classes, (count,), generator=generator)
    aim = gts[torch.randint(0, count, (len(priors),), generator=generator)]
    own = priors.boxes() + torch.randn(len(priors), 4, generator=generator)
    near = torch.cdist((own[:, :2] + own[:, 2:]) / 2, (gts[:, :2] + gts[:, 2:]) / 2).argmin(1)
    boxes = torch.where(torch.rand(len(priors), 1, generator=generator) >= astray, gts[near], aim)
    boxes = boxes + torch.randn(len(priors), 4, generator=generator) * 2
    boxes = torch.cat((boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 0.5)), 1)
    scores = torch.rand(len(priors), classes, generator=generator)
    return priors, gts, labels, Predictions(boxes, scores, labels)


def lists(*tensors):
    return [t.double().tolist() for t in tensors]


@pytest.mark.parametrize("seed", range(8))
def test_simota_equals_a_slow_loop(seed):
    priors, gts, labels, pred = case(seed)
    expected = slow.simota(*lists(priors.boxes(), gts), labels.tolist(), *lists(pred.boxes, pred.scores))
    for given in (priors, priors.boxes()):
        result = SimOTAAssigner()(given, gts, predictions=pred)
        assert result.matched_idxs.tolist() == expected
        assert torch.equal(result.labels == 1, result.matched_idxs >= 0)
    positive = result.matched_idxs >= 0
    overlaps = [slow.iou(*lists(pred.boxes[n], gts[result.matched_idxs[n]])) for n in positive.nonzero().flatten()]
    torch.testing.assert_close(result.quality[positive], torch.tensor(overlaps, dtype=torch.float32))
    assert not result.quality[~positive].any()


def test_simota_and_the_released_rule_differ_little():
    """Ours counts IoUs of an object's own candidates; the released code also those of other objects' candidates."""
    same = positive = 0
    for seed in range(6):
        priors, gts, labels, pred = case(seed, large=30, astray=0.0)
        args = (*lists(priors.boxes(), gts), labels.tolist(), *lists(pred.boxes, pred.scores))
        ours, released = slow.simota(*args), slow.simota(*args, everywhere=True)
        same += sum(a == b >= 0 for a, b in zip(ours, released, strict=True))
        positive += sum(max(a, b) >= 0 for a, b in zip(ours, released, strict=True))
    assert same / positive > 0.95


@pytest.mark.parametrize("least", [0.0, 8.0])
@pytest.mark.parametrize("seed", range(6))
def test_tal_equals_a_slow_loop(seed, least):
    priors, gts, labels, pred = case(seed)
    matched, quality = slow.tal(
        *lists(priors.boxes(), gts), labels.tolist(), *lists(pred.boxes, pred.scores), least=least
    )
    for given in (priors, priors.boxes()):
        result = TALAssigner(min_candidate_size=least)(given, gts, predictions=pred)
        assert result.matched_idxs.tolist() == matched
        torch.testing.assert_close(result.quality, torch.tensor(quality), atol=1e-5, rtol=1e-4)


def test_tal_over_several_parts_of_the_search(monkeypatch):
    """Large objects on a fine grid are searched in parts; the answer is that of one part."""
    priors, gts, _, pred = case(3, size=256, large=250)
    at_once = TALAssigner()(priors, gts, predictions=pred)
    monkeypatch.setattr("d2tiny.ops.grid_topk.DENSE_ELEMENTS", 500)
    parts = TALAssigner()(priors, gts, predictions=pred)
    assert torch.equal(at_once.matched_idxs, parts.matched_idxs)
    assert torch.equal(at_once.quality, parts.quality)


@pytest.mark.parametrize("corner", [(10.0, 10.0), (8.0, 8.0), (6.0, 10.0)])
def test_tiny_candidates_reach_every_tiny_object(corner):
    """Centres lie at 4, 12, … (stride 8) and 8, 24, … (16): 8-12 by 8-12 and 6-10 by 10-14 contain none of a level."""
    priors = points(64)
    gt = torch.tensor([[*corner, corner[0] + 4, corner[1] + 4]])
    pred = Predictions(gt.expand(len(priors), 4), torch.full((len(priors), 1), 0.5), torch.tensor([0]))
    found = TALAssigner(min_candidate_size=8.0)(priors, gt, predictions=pred)
    assert (found.labels == 1).any()
    inside = TALAssigner()(priors, gt, predictions=pred).labels == 1
    assert inside.any() == (corner[0] == 10.0)  # 10-14 by 10-14 contains (12, 12)


def test_class_scores_and_overlap_decide_by_hand():
    """Two priors inside; CIoU 1 and, half as wide, lower: the target is 1 for the first, the CIoU for the other."""
    priors = GridPriors([GridLevel(8, 1, 2, torch.tensor([[-4.0, -4, 4, 4]]), 0.5)])
    gt = torch.tensor([[0.0, 0, 16, 8]])
    boxes = torch.tensor([[0.0, 0, 16, 8], [0.0, 0, 8, 8]])
    pred = Predictions(boxes, torch.full((2, 1), 0.25), torch.tensor([0]))
    result = TALAssigner(alpha=1.0, beta=1.0)(priors, gt, predictions=pred)
    # IoU ½; centres 4 apart, diagonal² 16² + 8² = 320; v = 4/π²(atan 2 − atan 1)², α = v / (½ + v)
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    ciou = 0.5 - 16 / 320 - v * v / (0.5 + v)
    torch.testing.assert_close(result.quality, torch.tensor([1.0, ciou]))


@pytest.mark.parametrize("seed", range(8))
def test_ratio_pairs_equal_a_slow_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = {8: [(4.0, 4.0), (7.0, 9.0)], 16: [(15.0, 15.0), (21.0, 30.0)]}
    levels = []
    for stride, anchors in sizes.items():
        half = torch.tensor(anchors) / 2
        levels.append(GridLevel(stride, 64 // stride, 96 // stride, torch.cat((-half, half), 1), 0.5))
    priors = GridPriors(levels)
    centre = torch.rand(40, 2, generator=generator) * torch.tensor([100.0, 68.0]) - 2  # some outside
    if seed == 0:
        centre = (centre / 4).round() * 4  # exact halves of cells
    half = 0.5 + torch.rand(40, 2, generator=generator) ** 2 * 30
    gts = torch.cat((centre - half, centre + half), 1)
    expected = slow.ratio_pairs([(s, 64 // s, 96 // s, a) for s, a in sizes.items()], gts.double().tolist())
    found = RatioAssigner().pairs(priors, gts)
    pairs = set(zip(found.gt.tolist(), found.prior.tolist(), strict=True))
    assert pairs == expected
    result = RatioAssigner()(priors, gts)
    chosen = {(g, n) for n, g in enumerate(result.matched_idxs.tolist()) if g >= 0}
    assert chosen <= expected
    assert {n for _, n in chosen} == {n for _, n in expected}


def test_every_matched_anchor_can_reach_its_object():
    """Boxes decode to ± 1 stride from the cell's middle; centres on edges of cells are frequent with integer boxes."""
    priors = points(64, strides=(8,))
    generator = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 50, (200, 2), generator=generator).float()
    gts = torch.cat((corner, corner + torch.randint(3, 14, (200, 2), generator=generator)), 1)
    found = RatioAssigner().pairs(priors, gts)
    boxes = priors.boxes()[found.prior]
    shift = (boxes[:, :2] + boxes[:, 2:] - gts[found.gt, :2] - gts[found.gt, 2:]).abs() / 2 / 8
    assert float(shift.max()) < 1.0 + 1e-6
    with pytest.raises(ValueError, match="NaN"):
        RatioAssigner().pairs(priors, torch.tensor([[0.0, 0, float("nan"), 4]]))


def test_ratio_needs_a_grid():
    with pytest.raises(ValueError, match="GridPriors"):
        RatioAssigner()(torch.rand(4, 4) + torch.tensor([0, 0, 1, 1]), torch.tensor([[0.0, 0, 4, 4]]))


@pytest.mark.parametrize("cls", [SimOTAAssigner, TALAssigner])
def test_edges(cls):
    priors = points(64)
    empty = Predictions(priors.boxes(), torch.rand(len(priors), 2), torch.zeros(0, dtype=torch.int64))
    assert not cls()(priors, torch.zeros(0, 4), predictions=empty).labels.any()
    gts = torch.tensor([[-200.0, -200, -190, -190], [5.0, 5, 5, 9], [10.0, 10, 30, 30]])  # outside, without area, real
    pred = Predictions(priors.boxes(), torch.rand(len(priors), 2), torch.tensor([0, 1, 1]))
    before = pred.boxes.clone()
    result = cls()(priors, gts, predictions=pred)
    assert set(result.matched_idxs.tolist()) == {-1, 2}
    assert torch.equal(before, pred.boxes)
    with pytest.raises(ValueError, match="predictions"):
        cls()(priors, gts)
    pred.boxes[3, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="NaN"):
        cls()(priors, gts, predictions=pred)


@pytest.mark.parametrize("cls", [SimOTAAssigner, TALAssigner])
def test_memory_grows_with_objects_not_with_the_matrix(cls, monkeypatch):
    """2,000 objects on 800 px: no tensor has a tenth of G × N elements."""
    priors = points(800)
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(2000, 2, generator=generator) * 800
    half = 2 + torch.rand(2000, 2, generator=generator) * 12
    gts = torch.cat((centre - half, centre + half), 1)
    labels = torch.zeros(2000, dtype=torch.int64)
    pred = Predictions(priors.boxes() + 1.0, torch.rand(len(priors), 8, generator=generator), labels)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else (out,):
                largest = max(largest, t.numel() if isinstance(t, torch.Tensor) else 0)
            return out

    with Watch():
        result = cls()(priors, gts, predictions=pred)
    assert (result.labels == 1).sum() > 500
    assert largest < 2000 * len(priors) / 20


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [
        (SimOTAAssigner, {"radius": 0}),
        (SimOTAAssigner, {"topk": 0}),
        (TALAssigner, {"topk": 0}),
        (TALAssigner, {"min_candidate_size": -1}),
        (RatioAssigner, {"max_ratio": 1.0}),
    ],
)
def test_bad_settings_are_refused(cls, kwargs):
    with pytest.raises(ValueError, match=cls.__name__):
        cls(**kwargs)
