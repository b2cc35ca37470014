"""Where the heads pool."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from d2tiny.modeling.roi_heads import pooling
from d2tiny.modeling.roi_heads.pooling import TinyROIPooler


def some_boxes():
    """Two images, boxes of all levels; the third image is empty."""
    torch.manual_seed(0)
    corners, sides = torch.rand(2, 9, 2) * 60, torch.rand(2, 9, 2) * 64
    return [Boxes(torch.cat((c, c + s), dim=1)) for c, s in zip(corners, sides, strict=True)] + [
        Boxes(torch.zeros(0, 4))
    ]


def maps(kind=torch.float32):
    torch.manual_seed(1)
    return [torch.randn(3, 20, 32 // k, 32 // k).to(kind).requires_grad_() for k in (1, 2, 4)]


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("sampling", [0, 2])
def test_pools_as_detectron2_does(levels, sampling):
    plain = ROIPooler(7, [1 / 4, 1 / 8, 1 / 16][:levels], sampling, "ROIAlignV2", 24, 2)
    outs, grads = [], []
    for pooler in (plain, TinyROIPooler(plain)):
        given = maps()[:levels]
        outs.append(pooler(given, some_boxes()))
        grads.append(torch.autograd.grad(outs[-1].square().sum(), given))
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 5, 18, 100])
def test_chunks_are_the_whole_in_its_order(size):
    pooler = TinyROIPooler(ROIPooler(7, [1 / 4, 1 / 8, 1 / 16], 0, "ROIAlignV2", 24, 2))
    chunks = list(pooler.chunks(maps(), some_boxes(), size))
    assert [len(c) for c in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert torch.equal(torch.cat(chunks), pooler(maps(), some_boxes()))


def test_without_boxes():
    pooler = TinyROIPooler(ROIPooler(7, [1 / 4, 1 / 8, 1 / 16], 0, "ROIAlignV2"))
    out = pooler(maps(), [Boxes(torch.zeros(0, 4))] * 3)
    assert out.shape == (0, 20, 7, 7)
    assert [len(c) for c in pooler.chunks(maps(), [Boxes(torch.zeros(0, 4))] * 3)] == [0]
    out.sum().backward()


@pytest.mark.parametrize(("kind", "dtype"), [("ROIAlign", torch.float32), ("ROIAlignV2", torch.float64)])
def test_other_pooling_and_other_types_stay(kind, dtype, monkeypatch):
    monkeypatch.setattr(pooling, "roi_align", None)
    plain = ROIPooler(7, [1 / 4, 1 / 8, 1 / 16], 0, kind)
    boxes = [Boxes(b.tensor.to(dtype)) for b in some_boxes()]
    assert torch.equal(TinyROIPooler(plain)(maps(dtype), boxes), plain(maps(dtype), boxes))


def test_boxes_that_no_level_has():
    pooler = TinyROIPooler(ROIPooler(2, [1 / 4, 1 / 8, 1 / 16], 0, "ROIAlignV2"))
    odd = Boxes(torch.tensor([[0, 0, float("nan"), 4], [10, 10, 5, 20], [1, 1, 20, 20]]))
    out = pooler(maps(), [odd, Boxes(torch.zeros(0, 4)), Boxes(torch.zeros(0, 4))])
    assert out[0].isnan().all()
    assert not out[1].any()
    assert out[2].isfinite().all()
    with pytest.raises(ValueError, match="boxes of 1 images for maps of 3"):
        pooler(maps(), [odd])


def test_has_no_weights():
    assert not TinyROIPooler(ROIPooler(7, [1 / 4], 0, "ROIAlignV2")).state_dict()
