from __future__ import annotations

import torch
from torchvision.ops import box_iou

from d2tiny.ops import boxes as ops


def random_boxes(count):
    corner = torch.rand(count, 2) * 50
    return torch.cat((corner, corner + torch.rand(count, 2) * 20), 1)


def test_iou_equals_torchvision():
    a, b = random_boxes(40), random_boxes(30)
    torch.testing.assert_close(ops.pairwise_iou(a, b), box_iou(a, b))


def test_iou_of_empty_boxes_is_zero_and_finite():
    a = torch.tensor([[5.0, 5, 5, 5], [9, 9, 3, 3]])
    assert not ops.pairwise_iou(a, a).any()
    assert ops.pairwise_iou(torch.zeros(0, 4), a).shape == (0, 2)


def test_max_iof_by_hand():
    """A 10×10 box with 40 px² in one region and 30 px² in another has 0.4; regions are not added up."""
    box = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [1, 1, 1, 1]])
    regions = torch.tensor([[0.0, 0, 4, 10], [7, 0, 10, 10]])
    torch.testing.assert_close(ops.max_iof(box, regions), torch.tensor([0.4, 0.0, 0.0]))
    assert not ops.max_iof(box, torch.zeros(0, 4)).any()


def test_cxcywh():
    converted = ops.xyxy_to_cxcywh(torch.tensor([[1.0, 2, 5, 10]]))
    assert converted.tolist() == [[3.0, 6.0, 4.0, 8.0]]


def test_chunks_cover_everything_within_the_bound():
    for rows, columns in ((0, 5), (7, 10**7), (5000, 1000), (3, 0)):
        parts = list(ops.chunks(rows, columns))
        assert [i for p in parts for i in range(p.start, p.stop)] == list(range(rows))
        assert all((p.stop - p.start) * columns <= ops.CHUNK_ELEMENTS or p.stop - p.start == 1 for p in parts)
