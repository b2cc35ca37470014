from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from d2tiny.ops.grid_nms import LEAST_THRESHOLD
from d2tiny.ops.nms import batched_nms


def greedy(boxes, scores, groups, threshold):
    """torchvision's NMS, one group at a time."""
    kept = []
    for group in groups.unique():
        index = (groups == group).nonzero().flatten()
        kept += index[nms(boxes[index], scores[index], threshold)].tolist()
    kept = torch.tensor(sorted(kept), dtype=torch.int64)
    return kept[scores[kept].argsort(descending=True, stable=True)].tolist()


def crowd(count, side, classes, seed):
    """Candidates of a detector: several jittered boxes of each object, of 2-120 px."""
    g = torch.Generator().manual_seed(seed)
    objects = max(1, count // 4)
    centre = torch.rand(objects, 2, generator=g) * side
    size = torch.exp(torch.rand(objects, 2, generator=g) * 4 + 0.7)
    of = torch.randint(0, objects, (count,), generator=g)
    centre = centre[of] + torch.randn(count, 2, generator=g) * size[of] * 0.15
    size = size[of] * torch.exp(torch.randn(count, 2, generator=g) * 0.2)
    groups = torch.randint(0, classes, (objects,), generator=g)[of]
    return torch.cat((centre - size / 2, centre + size / 2), 1), torch.rand(count, generator=g), groups


@pytest.mark.parametrize("threshold", [LEAST_THRESHOLD, 0.3, 0.5, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(8))
def test_equals_torchvision_group_by_group(seed, threshold):
    count, side, classes = (1, 7, 300, 1500)[seed % 4], (60, 800, 20000)[seed % 3], (1, 5)[seed % 2]
    boxes, scores, groups = crowd(count, side, classes, seed)
    assert batched_nms(boxes, scores, groups, threshold).tolist() == greedy(boxes, scores, groups, threshold)


def test_ties_of_scores_and_of_iou():
    """Whole pixels and tenths: many equal scores, and IoUs of exactly the threshold."""
    boxes, scores, groups = crowd(1500, 100, 2, 0)
    boxes, scores = boxes.round(), (scores * 10).round() / 10
    for threshold in (0.2, 0.5, 0.75):
        assert batched_nms(boxes, scores, groups, threshold).tolist() == greedy(boxes, scores, groups, threshold)


def test_boxes_without_area_or_not_finite_overlap_with_nothing():
    nan, inf = float("nan"), float("inf")
    odd = torch.tensor([[5, 5, 5, 9], [9, 9, 5, 5], [nan, 0, 4, 4], [0, 0, inf, 4], [-inf, 0, 4, 4], [0, 0, 4, 4]])
    boxes = torch.cat((odd, odd))
    kept = batched_nms(boxes, torch.linspace(1, 0, 12), torch.zeros(12, dtype=torch.int64), 0.5)
    assert kept.tolist() == list(range(11)), "the last one repeats a box with an area"


def test_negative_and_huge_coordinates():
    for offset in (-1000.0, 1e6, 3e7):
        boxes, scores, groups = crowd(400, 100, 1, 3)
        boxes = boxes * 8 + offset
        assert batched_nms(boxes, scores, groups, 0.5).tolist() == greedy(boxes, scores, groups, 0.5)


def test_negative_scores_and_nan_come_as_torch_sorts_them():
    boxes = torch.arange(6).float()[:, None].expand(6, 4) * 10 + torch.tensor([0.0, 0, 4, 4])
    scores = torch.tensor([-1.0, 0.0, float("nan"), -0.0, 2.0, -2.0])
    assert batched_nms(boxes, scores, torch.zeros(6, dtype=torch.int64), 0.5).tolist() == [2, 4, 1, 3, 0, 5]


def test_a_low_threshold_takes_the_slow_path():
    boxes, scores, groups = crowd(300, 200, 2, 5)
    assert batched_nms(boxes, scores, groups, 0.05).tolist() == greedy(boxes, scores, groups, 0.05)


def test_no_quadratic_time():
    """Each box looks at few others: 200,000 in a moment, where every pair would be 2·10¹⁰ comparisons."""
    boxes, scores, _ = crowd(200_000, 20_000, 1, 1)
    kept = batched_nms(boxes, scores, torch.zeros(200_000, dtype=torch.int64), 0.5)
    again = batched_nms(boxes[kept], scores[kept], torch.zeros(len(kept), dtype=torch.int64), 0.5)
    assert np.array_equal(again.numpy(), np.arange(len(kept)))
