"""Where the heads pool."""

from __future__ import annotations

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from d2tiny.modeling.roi_heads.pooling import TinyROIAlign, use_fast_roi_align


def test_pooler_of_several_levels_is_the_same():
    pooler = ROIPooler(7, [1 / 4, 1 / 8], 0, "ROIAlignV2", canonical_box_size=24, canonical_level=2)
    torch.manual_seed(0)
    maps = [torch.randn(2, 20, 32, 32), torch.randn(2, 20, 16, 16)]
    given = [Boxes(torch.rand(9, 4) * 40 + torch.tensor([0, 0, 60, 60])), Boxes(torch.zeros(0, 4))]
    before = pooler(maps, given)
    use_fast_roi_align(pooler)
    assert all(type(level) is TinyROIAlign for level in pooler.level_poolers)
    torch.testing.assert_close(pooler(maps, given), before, rtol=1e-4, atol=1e-5)


def test_other_pooling_and_other_types_stay():
    pooler = ROIPooler(7, [1 / 4], 0, "ROIAlign")
    use_fast_roi_align(pooler)
    legacy = pooler.level_poolers[0]
    x, rois = torch.randn(1, 3, 8, 8), torch.tensor([[0.0, 2, 2, 20, 20]])
    torch.testing.assert_close(legacy(x, rois), ROIAlign(7, 1 / 4, 0, aligned=False)(x, rois))
    layer = TinyROIAlign((7, 7), 1 / 4, 0)
    assert layer(x.double(), rois.double()).dtype == torch.float64
    traced = torch.jit.trace(layer, (x, rois))
    moved = rois + torch.tensor([0.0, 1, 2, 3, 4])
    torch.testing.assert_close(traced(x, moved), layer(x, moved), rtol=1e-4, atol=1e-5)
