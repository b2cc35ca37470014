"""MaxIoU with other metrics, RKA, ATSS: against slow loops, and windowed against dense."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou

from d2tiny.modeling.assigners import ATSSAssigner, HLAAssigner, MaxIoUAssigner, RKAAssigner
from d2tiny.modeling.priors import GridLevel, GridPriors, RFAnchorGenerator, grid_from_generator
from d2tiny.ops.gaussian import get_score
from tests.helpers.boxes import A64, as_numbers, boxes, ignored, positives, pyramid, random_gts
from tests.reference import assigners as slow

ALL = {
    "hla": HLAAssigner(),
    "iou": MaxIoUAssigner(),
    "giou": MaxIoUAssigner(metric="giou"),
    "nwd": MaxIoUAssigner(metric="nwd", min_quality=0.3),
    "dotd": MaxIoUAssigner(metric="dotd", min_quality=0.3),
    "no low quality": MaxIoUAssigner(low_quality=False, pos_iou=0.5, neg_iou=0.5),
    "nothing negative": MaxIoUAssigner(neg_iou=0.0),
    "rka": RKAAssigner(),
    "rka3": RKAAssigner(topk=3, constant=12.7),
    "rka index": RKAAssigner(tie="index"),
    "atss": ATSSAssigner(),
    "atss nwd": ATSSAssigner(metric="nwd", topk=4),
}


def test_metric_vectors():
    """docs/papers/nwd.md#test-vectors: shifts by (1, 1) and (4, 4) give 6 px and 36 px boxes the same NWD."""

    def values(name, size, shift):
        d, s = torch.tensor([float(shift)]).double(), torch.tensor([float(size)]).double()
        return float(get_score(name)(d, d, s, s, s, s))

    assert values("iou", 6, 1) == pytest.approx(0.531915, abs=1e-6)
    assert values("nwd", 6, 1) == pytest.approx(0.895399, abs=1e-6)
    assert values("dotd", 6, 1) == pytest.approx(0.894621, abs=1e-6)
    assert values("nwd", 6, 4) == pytest.approx(0.642787, abs=1e-6)
    assert values("nwd", 36, 4) == values("nwd", 6, 4)
    assert values("iou", 36, 1) == pytest.approx(0.896123, abs=1e-6)
    assert values("nwd", 8, 0) == pytest.approx(0.99992188, abs=1e-8)
    with pytest.raises(ValueError, match="goes with nwd and dotd"):
        get_score("kld", 12.8)


def test_rka_vector():
    """docs/papers/nwd.md#test-vectors: on the geometry of HLA-A."""
    result = RKAAssigner()(A64, boxes([[9.3, 10.6, 8, 8], [22.7, 21.9, 12, 6], [10.9, 9.4, 5, 5]]))
    assert positives(result) == {18: 1, 19: 3, 26: 1, 27: 3, 46: 2, 54: 2}
    assert int((result.labels == 0).sum()) == 19
    assert len(ignored(result)) == 39


def small_pyramid(rng):
    """Two levels, one or three ratios, small enough for slow loops."""
    ratios = (1.0,) if rng.integers(2) else (0.5, 1.0, 2.0)
    return pyramid((40, 56), strides=(8, 16), ratios=ratios)


@pytest.mark.parametrize("seed", range(12))
def test_slow_loops_agree(seed):
    rng = np.random.default_rng(seed)
    grid = small_pyramid(rng)
    gts = random_gts(rng, int(rng.integers(1, 9)), (40, 56))
    priors, rows = grid.boxes().tolist(), gts.tolist()
    for metric, low in (("iou", 0.0), ("giou", 0.0), ("nwd", 0.3), ("dotd", 0.3)):
        expected = slow.max_iou(priors, rows, metric, min_quality=low)
        assert as_numbers(MaxIoUAssigner(metric=metric, min_quality=low)(grid, gts)) == expected, metric
    assert as_numbers(RKAAssigner()(grid, gts)) == slow.rka(priors, rows)
    levels = [level.tolist() for level in grid.level_boxes]
    assert as_numbers(ATSSAssigner()(grid, gts)) == slow.atss(levels, rows)


@pytest.mark.parametrize("name", [n for n in ALL if not n.startswith("atss")])
@pytest.mark.parametrize("seed", range(25))
def test_windowed_equals_dense(name, seed):
    """Ties, duplicates, 2 px to the whole image, extreme shapes, 64 to 1024 px, one and three ratios."""
    rng = np.random.default_rng(seed)
    size = tuple(int(v) for v in rng.choice([64, 100, 256, 384, 1024 if seed % 8 == 0 else 200], 2))
    grid = pyramid(size, ratios=(1.0,) if seed % 2 else (0.5, 1.0, 2.0))
    gts = random_gts(rng, int(rng.integers(1, 60)), size)
    windowed, dense = ALL[name](grid, gts), ALL[name](grid.boxes(), gts)
    assert torch.equal(windowed.labels, dense.labels)
    assert torch.equal(windowed.matched_idxs, dense.matched_idxs)
    assert torch.equal(windowed.quality, dense.quality)


@pytest.mark.parametrize("name", list(ALL))
def test_normal_ignore_no_object_no_prior(name):
    assigner, grid = ALL[name], pyramid((64, 96))
    gts = boxes([[20, 20, 8, 8], [60, 40, 30, 12], [48, 32, 400, 300], [10, 10, 0, 5]])
    before = gts.clone()
    result = assigner(grid, gts, ignore_boxes=boxes([[80, 50, 30, 30]]))
    assert torch.equal(gts, before)
    assert result.labels.dtype == torch.int8
    assert (result.matched_idxs[result.labels == 1] >= 0).all()
    assert (result.matched_idxs[result.labels != 1] == -1).all()
    assert not (result.matched_idxs == 3).any()  # no area, no prior
    plain = assigner(grid, gts)
    assert set(ignored(plain)) <= set(ignored(result))
    assert positives(plain) == positives(result)
    none = assigner(grid, gts[:0])
    assert not none.labels.any()
    assert len(assigner(GridPriors([]), gts).labels) == 0
    empty_level = GridPriors([GridLevel(8, 0, 5, torch.tensor([[-4.0, -4, 4, 4]]))])
    assert len(assigner(empty_level, gts).labels) == 0


@pytest.mark.parametrize("name", list(ALL))
def test_a_crowd_of_2500(name):
    rng = np.random.default_rng(3)
    gts = boxes(np.concatenate((rng.uniform(0, 256, (2500, 2)), rng.uniform(2, 12, (2500, 2))), axis=1))
    result = ALL[name](pyramid((256, 256)), gts)
    # without the best priors of each object, anchors of 17 px and more overlap no object of 2 to 12 px by a half
    assert int((result.labels == 1).sum()) > (-1 if name == "no low quality" else 500)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaxIoUAssigner(metric="nwdd"), "Did you mean 'nwd'"),
        (lambda: MaxIoUAssigner(metric="iou", constant=3.0), "goes with"),
        (lambda: RKAAssigner(topk=0), "topk >= 1"),
        (lambda: RKAAssigner(neg_thresh=0.0), "neg_thresh"),
        (lambda: RKAAssigner(tie="x"), "tie"),
        (lambda: ATSSAssigner(topk=0), "at least 1"),
        (lambda: ATSSAssigner(metric="x"), "ATSSAssigner: unknown metric"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("sizes", [(8, 16, 32, 64, 128), (32, 64, 128, 256, 512)])
@pytest.mark.parametrize("seed", range(4))
def test_max_iou_is_detectron2s_on_its_own_anchors_rounding_included(sizes, seed):
    """Tiny objects inside large anchors tie with all anchors round them; float32 decides, and the same way."""
    generator = DefaultAnchorGenerator(
        sizes=[[s] for s in sizes], aspect_ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64], offset=0.0
    )
    maps = [torch.zeros(1, 1, -(-160 // s), -(-224 // s)) for s in (4, 8, 16, 32, 64)]
    grid = grid_from_generator(generator, maps)
    rng = np.random.default_rng(seed)
    gts = boxes(np.concatenate((rng.uniform(8, 150, (40, 2)), rng.uniform(3, 20, (40, 2))), axis=1))
    matched, labels = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(
        pairwise_iou(Boxes(gts), Boxes(grid.boxes()))
    )
    for result in (MaxIoUAssigner()(grid, gts), MaxIoUAssigner()(grid.boxes(), gts)):
        assert torch.equal(result.labels, labels)
        assert torch.equal(result.matched_idxs[labels == 1], matched[labels == 1])


def test_rka_takes_all_that_tie_by_symmetry():
    """A square object at (53, 61) between cells: 2 best of stride 4 are one cell and two equal neighbours."""
    grid = grid_from_generator(RFAnchorGenerator(strides=[4], aspect_ratios=[1.0]), [torch.zeros(1, 1, 32, 32)])
    result = RKAAssigner(topk=2, constant=12.7)(grid, torch.tensor([[45.0, 53.0, 61.0, 69.0]]))
    assert (result.labels == 1).nonzero().flatten().tolist() == [493, 494, 525]


def test_atss_candidates_of_one_score_are_all_positive():
    """An object inside every anchor has the same IoU with all; those whose centre lies inside are positive."""
    anchors = torch.tensor([[x, y, x + 40.0, y + 40.0] for x in (1.0, 3, 7) for y in (1.0, 4)])
    result = ATSSAssigner(topk=6)(anchors, torch.tensor([[20.0, 18.0, 29.0, 29.0]]))
    assert result.labels.tolist() == [1] * 6


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("atss")])
@pytest.mark.parametrize("scale", [2, 8])
def test_detectron2_anchors_of_three_ratios_on_the_grid_and_as_boxes(name, scale):
    """Their sides are multiples of √2: without snapping, ties on the grid are no ties in float32 boxes."""
    strides = [4, 8, 16]
    generator = DefaultAnchorGenerator(
        sizes=[[scale * s] for s in strides], aspect_ratios=[0.5, 1.0, 2.0], strides=strides, offset=0.0
    )
    grid = grid_from_generator(generator, [torch.zeros(1, 1, 256 // s, 256 // s) for s in strides])
    assigners = [ALL[name], HLAAssigner(metric="giou")] if name == "hla" else [ALL[name]]
    for seed in range(4):
        draw = torch.Generator().manual_seed(seed)
        corner = (torch.rand(20, 2, generator=draw) * 480).round() / 2
        gts = torch.cat((corner, corner + 2 + (torch.rand(20, 2, generator=draw) * 40).round() / 2), 1)
        if seed % 2:
            gts += torch.rand(20, 4, generator=draw) * 0.3
        for assigner in assigners:
            there, plain = assigner(grid, gts), assigner(grid.boxes(), gts)
            assert torch.equal(there.labels, plain.labels)
            assert torch.equal(there.matched_idxs, plain.matched_idxs)


@pytest.mark.parametrize(
    ("assigner", "gt"),
    [
        (RKAAssigner(metric="iou"), [500.0, 500, 508, 508]),
        (RKAAssigner(), [1e4, 1e4, 1e4 + 8, 1e4 + 8]),
        (HLAAssigner(metric="kld_exp"), [30.03, 30.03, 30.13, 30.13]),
        (RKAAssigner(metric="dotd", constant=1.0), [1000.0, 1000, 1008, 1008]),
    ],
)
def test_an_object_without_any_score_gets_no_prior(assigner, gt):
    """All priors tie at 0, which says nothing about any of them."""
    grid = grid_from_generator(RFAnchorGenerator(strides=[4], aspect_ratios=[1.0]), [torch.zeros(1, 1, 32, 32)])
    gts = torch.tensor([gt, [40.0, 40, 52, 50]])
    for priors in (grid, grid.boxes()):
        result = assigner(priors, gts)
        assert set(result.matched_idxs[result.labels == 1].tolist()) == {1}
        assert int((result.labels == 1).sum()) < 12


def test_a_k_larger_than_the_maps():
    grid = grid_from_generator(RFAnchorGenerator(strides=[4, 8], aspect_ratios=[1.0]), [torch.zeros(1, 1, 4, 9)] * 2)
    gt = torch.tensor([[3.0, 5, 12, 11]])
    for k in (35, 72, 5000):
        there, plain = RKAAssigner(topk=k)(grid, gt), RKAAssigner(topk=k)(grid.boxes(), gt)
        assert torch.equal(there.labels, plain.labels)
        assert int((there.labels == 1).sum()) >= min(k, 72)
