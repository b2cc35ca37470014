from __future__ import annotations

import pytest
import torch

from d2tiny.ops.boxes import xyxy_to_cxcywh
from d2tiny.ops.gaussian import nwd_score
from d2tiny.ops.nms import batched_nms, nwd_nms


def loop_nms(boxes, scores, groups, threshold):
    """Greedy suppression, one box at a time, in float64."""
    boxes = boxes.double()
    kept = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        for j in kept:
            if groups[i] != groups[j]:
                continue
            wh = (torch.minimum(boxes[i, 2:], boxes[j, 2:]) - torch.maximum(boxes[i, :2], boxes[j, :2])).clamp(min=0)
            inter = wh.prod()
            union = (boxes[i, 2:] - boxes[i, :2]).prod() + (boxes[j, 2:] - boxes[j, :2]).prod() - inter
            if inter / union > threshold:
                break
        else:
            kept.append(i)
    return kept


def test_equals_the_loop_far_from_the_origin():
    """Tiny boxes at 20,000 px, where shifted float32 coordinates would be off by 0.01 px and more."""
    torch.manual_seed(1)
    corner = torch.randint(0, 40, (300, 2)).float() / 4 + 20000
    boxes = torch.cat((corner, corner + torch.randint(8, 32, (300, 2)).float() / 4), 1)
    scores, groups = torch.rand(300), torch.randint(0, 8, (300,))
    assert batched_nms(boxes, scores, groups, 0.5).tolist() == loop_nms(boxes, scores, groups, 0.5)


def test_sorted_ties_keep_their_order():
    boxes = torch.tensor([[0.0, 0, 4, 4], [10, 0, 14, 4], [20, 0, 24, 4]])
    assert batched_nms(boxes, torch.tensor([0.5, 0.9, 0.5]), torch.zeros(3), 0.5).tolist() == [1, 0, 2]


def test_empty():
    assert batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), 0.5).shape == (0,)


def test_half_precision_scores():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4]])
    kept = batched_nms(boxes.bfloat16(), torch.tensor([0.5, 0.9]).bfloat16(), torch.zeros(2), 0.5)
    assert kept.tolist() == [1]


@pytest.mark.parametrize("seed", range(5))
def test_nwd_nms_equals_a_slow_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(60, 2, generator=generator) * 60
    boxes = torch.cat((corner, corner + 2 + torch.rand(60, 2, generator=generator) * 10), 1)
    scores = (torch.rand(60, generator=generator) * 10).round() / 10  # ties
    rows, kept = xyxy_to_cxcywh(boxes.double()), []
    for i in sorted(range(60), key=lambda i: (-float(scores[i]), i)):
        near = [
            float(nwd_score(*(rows[i, :2] - rows[j, :2]), rows[i, 2], rows[i, 3], rows[j, 2], rows[j, 3])) for j in kept
        ]
        if max(near, default=0) <= 0.7:
            kept.append(i)
    assert nwd_nms(boxes, scores, 0.7).tolist() == kept
    assert len(kept) < 60
    both = batched_nms(boxes, scores, torch.arange(60) % 2, 0.7, metric="nwd")
    halves = [torch.arange(60)[k::2] for k in (0, 1)]
    expected = {int(h[i]) for h in halves for i in nwd_nms(boxes[h], scores[h], 0.7).tolist()}
    assert set(both.tolist()) == expected
    assert nwd_nms(boxes[:0], scores[:0], 0.7).tolist() == []


def test_bad_settings():
    box, score = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([0.5])
    with pytest.raises(ValueError, match="'iou' or 'nwd', got 'NWD'"):
        batched_nms(box, score, torch.zeros(1), 0.5, metric="NWD")
    for threshold, constant in ((0.0, 12.8), (1.5, 12.8), (0.85, 0.0)):
        with pytest.raises(ValueError, match="0 < threshold < 1"):
            nwd_nms(box, score, threshold, constant)
