from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, pairwise_iou

from d2tiny.modeling.assigners import HLAAssigner, MaxIoUAssigner
from d2tiny.modeling.priors import GridLevel, GridPriors
from tests.helpers.boxes import A64, A80, as_numbers, boxes, ignored, positives, pyramid, random_gts
from tests.reference import hla as reference


def test_hla_vector_a_gt1_keeps_one_prior():
    result = HLAAssigner()(A64, boxes([[9.3, 10.6, 8, 8], [22.7, 21.9, 12, 6], [10.9, 9.4, 5, 5]]))
    assert positives(result) == {18: 3, 19: 3, 26: 1, 27: 3, 45: 2, 46: 2, 54: 2}
    assert ignored(result) == []
    assert int((result.labels == 0).sum()) == 57


def test_hla_vector_b_stage_two_adds_a_prior_of_another_scale():
    result = HLAAssigner()(A80, boxes([[16.3, 15.6, 31, 31]]))
    assert positives(result) == {28: 1, 36: 1, 37: 1, 74: 1}
    assert ignored(result) == []  # stage 1's six vanish
    assert int((result.labels == 0).sum()) == 76


def test_hla_vector_c_stage_two_ignores_good_priors():
    result = HLAAssigner()(A80, boxes([[9.3, 10.6, 8, 8], [17, 15, 40, 36]]))
    assert positives(result) == {18: 1, 26: 1, 27: 1, 70: 2, 74: 2, 75: 2}
    assert ignored(result) == [69, 71, 73, 77, 78, 79]


@pytest.mark.parametrize(("tie", "expected"), [("value", [18, 19, 26, 27]), ("index", [18, 19, 26])])
def test_hla_ties(tie, expected):
    assert list(positives(HLAAssigner(tie=tie)(A64, boxes([[10, 10, 8, 8]])))) == expected


@pytest.mark.parametrize("metric", ["kld", "wd", "giou", "kld_10", "kld_exp"])
def test_windowed_path_equals_dense_path(metric):
    """320 random cases (64 a metric): the window gives bit for bit what the whole matrix gives."""
    rng = np.random.default_rng(7)
    for case in range(64):
        size = tuple(int(v) for v in rng.choice([64, 100, 256, 321], 2))
        ratios = (0.5, 1.0, 2.0) if case % 2 else (1.0,)
        priors = pyramid(size, ratios=ratios)
        gts = random_gts(rng, int(rng.integers(0, 30)), size)
        k = (int(rng.integers(1, 6)), int(rng.integers(0, 3)))
        assigner = HLAAssigner(metric=metric, topk=k, tie="value" if case % 3 else "index")
        grid, dense = assigner(priors, gts), assigner(priors.boxes(), gts)
        assert torch.equal(grid.labels, dense.labels), (case, size, k)
        assert torch.equal(grid.matched_idxs, dense.matched_idxs), (case, size, k)
        assert torch.equal(grid.quality, dense.quality), (case, size, k)


@pytest.mark.parametrize("metric", ["kld", "wd", "giou"])
def test_equals_slow_loops(metric):
    rng = np.random.default_rng(3)
    for _ in range(12):
        size = (64, 96)
        priors = pyramid(size, strides=(4, 8, 16), ratios=(0.5, 1.0))
        gts = random_gts(rng, int(rng.integers(1, 8)), size)
        expected = reference.assign(priors.boxes().tolist(), gts.tolist(), metric)
        assert as_numbers(HLAAssigner(metric=metric)(priors, gts)) == expected


ASSIGNERS = [HLAAssigner(), HLAAssigner(metric="giou"), MaxIoUAssigner()]


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=repr)
class TestContract:
    def test_no_gt(self, assigner):
        result = assigner(pyramid((64, 64)), torch.zeros(0, 4))
        assert not result.labels.any()
        assert (result.matched_idxs == -1).all()
        assert result.matched_idxs.dtype == torch.int64
        assert result.labels.dtype == torch.int8
        assert result.quality.dtype == torch.float32

    def test_no_prior(self, assigner):
        for priors in (torch.zeros(0, 4), GridPriors([])):
            assert len(assigner(priors, boxes([[5, 5, 4, 4]])).labels) == 0
            assert len(assigner(priors, torch.zeros(0, 4)).labels) == 0

    def test_inputs_unchanged(self, assigner):
        gts, priors = boxes([[20, 20, 9, 7]]), A80.clone()
        before = gts.clone()
        assigner(priors, gts, ignore_boxes=boxes([[40, 40, 20, 20]]))
        assert torch.equal(gts, before)
        assert torch.equal(priors, A80)

    def test_deterministic_and_batch_order_invariant(self, assigner):
        priors = pyramid((128, 128))
        first, second = boxes([[20, 20, 9, 7]]), boxes([[50, 60, 12, 12], [51, 60, 12, 12]])
        alone = assigner(priors, second)
        assigner(priors, first)
        again = assigner(priors, second)
        assert torch.equal(alone.labels, again.labels)
        assert torch.equal(alone.matched_idxs, again.matched_idxs)

    def test_degenerate_gt_gets_nothing_and_keeps_the_numbers_of_the_others(self, assigner):
        gts = torch.tensor([[5.0, 5, 5, 9], [20, 20, 30, 28], [40, 40, 38, 50]])
        result = assigner(pyramid((64, 64)), gts)
        assert set(result.matched_idxs[result.labels == 1].tolist()) == {1}

    def test_ignore_region(self, assigner):
        priors = pyramid((128, 128), ratios=(1.0,))
        gts, region = boxes([[24, 24, 16, 16]]), torch.tensor([[64.0, 64, 128, 128]])
        plain, result = assigner(priors, gts), assigner(priors, gts, ignore_boxes=region)
        inside = (priors.boxes()[:, :2] >= 64).all(1) & (priors.boxes()[:, 2:] <= 128).all(1)
        assert inside.any()
        assert (result.labels[inside & (plain.labels == 0)] == -1).all()
        assert torch.equal(result.labels == 1, plain.labels == 1)  # positives stay
        outside = (priors.boxes()[:, 2:] <= 64).any(1)
        assert torch.equal(result.labels[outside], plain.labels[outside])

    def test_object_larger_than_the_image(self, assigner):
        result = assigner(pyramid((64, 64)), torch.tensor([[-200.0, -200, 300, 300]]))
        assert (result.labels == 1).any()

    def test_many_objects(self, assigner):
        centre = torch.rand(2500, 2) * 256
        gts = torch.cat((centre, centre + torch.rand(2500, 2) * 20 + 2), 1)
        result = assigner(pyramid((256, 256), ratios=(1.0,)), gts)
        assert (result.labels == 1).sum() > 1000

    def test_nan_is_named(self, assigner):
        with pytest.raises(ValueError, match="row 1"):
            assigner(A64, torch.tensor([[1.0, 1, 5, 5], [float("nan"), 0, 4, 4]]))

    def test_wrong_shape(self, assigner):
        with pytest.raises(ValueError, match=r"\(N, 4\)"):
            assigner(A64, torch.zeros(3, 5))


def test_every_8px_object_gets_a_prior_that_max_iou_denies():
    """The reason for RFLA: with 8 × stride anchors an 8-pixel object has IoU of at most 64/1024."""
    priors = pyramid((128, 128))
    gts = boxes([[x, y, 8, 8] for x in (17, 49, 81) for y in (19, 51, 83)])
    result = HLAAssigner()(priors, gts)
    assert set(result.matched_idxs[result.labels == 1].tolist()) == set(range(9))


@pytest.mark.parametrize("low_quality", [True, False])
def test_max_iou_equals_detectron2(low_quality):
    rng = np.random.default_rng(1)
    matcher = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=low_quality)
    for _ in range(20):
        priors = pyramid((128, 96))
        gts = random_gts(rng, int(rng.integers(1, 20)), (128, 96))
        iou = pairwise_iou(Boxes(gts), Boxes(priors.boxes()))
        gts = gts[iou.amax(1) > 0]  # Detectron2 makes everything positive for a box that overlaps nothing
        matched, labels = matcher(iou[iou.amax(1) > 0])
        result = MaxIoUAssigner(low_quality=low_quality)(priors, gts)
        assert torch.equal(result.labels, labels)
        # duplicates tie: compare the boxes, not the numbers
        positive = labels == 1
        assert torch.equal(gts[result.matched_idxs[positive]], gts[matched[positive]])


def test_max_iou_ignores_a_gt_that_overlaps_nothing():
    result = MaxIoUAssigner()(A64, boxes([[500, 500, 8, 8]]))
    assert not (result.labels == 1).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "kdl"}, "Did you mean 'kld'"),
        ({"topk": (0, 1)}, "topk"),
        ({"ratio": 1.5}, "ratio"),
        ({"tie": "first"}, "tie"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        HLAAssigner(**settings)


def test_empty_level_is_skipped():
    cells = torch.tensor([[-4.0, -4, 4, 4]])
    priors = GridPriors([GridLevel(4, 0, 0, cells), GridLevel(8, 2, 2, cells)])
    assert len(priors) == 4
    assert (HLAAssigner()(priors, boxes([[8, 8, 8, 8]])).labels == 1).sum() == 3
