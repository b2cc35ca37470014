"""Anchors that leave the image are removed before the assignment: an object at the border gets the best of the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes

from d2tiny import model_zoo
from d2tiny.analysis.coverage import config_coverage
from d2tiny.config import load_config
from d2tiny.modeling.assigners import (
    ATSSAssigner,
    FCOSAssigner,
    HLAAssigner,
    MaxIoUAssigner,
    RatioAssigner,
    RKAAssigner,
    SimOTAAssigner,
    TALAssigner,
)
from d2tiny.modeling.assigners.base import Predictions
from tests.helpers.boxes import as_numbers, boxes, points, pyramid, random_gts
from tests.helpers.images import targets
from tests.reference import assigners as slow
from tests.reference import hla as slow_hla

CASCADES = ("aitod/cascade_rcnn_r50_fpn_rfla_1x", "aitod/detectors_r50_rfp_rfla_1x")
FLAT = {  # those whose levels do not matter
    "hla": HLAAssigner(),
    "hla giou": HLAAssigner(metric="giou"),
    "hla index": HLAAssigner(tie="index"),
    "iou": MaxIoUAssigner(),
    "nwd": MaxIoUAssigner(metric="nwd", min_quality=0.3),
    "dotd": MaxIoUAssigner(metric="dotd", min_quality=0.3),
    "no low quality": MaxIoUAssigner(low_quality=False, pos_iou=0.5, neg_iou=0.5),
    "nothing negative": MaxIoUAssigner(neg_iou=0.0),
    "rka": RKAAssigner(),
    "rka3": RKAAssigner(topk=3, constant=12.7),
    "rka 40": RKAAssigner(topk=40),
    "tal": TALAssigner(),
    "simota": SimOTAAssigner(),
}


def without_outside(grid, size, margin):
    """Return the (N,) mask of the anchors inside, by Detectron2's rule."""
    return Boxes(grid.boxes()).inside_box(size, margin)


def tile(rng, count, side=320):
    """Draw objects of 2 to 32 px in a tile, cut at its border as tiling cuts them, (G, 4)."""
    centre, size = rng.uniform(0, side, (count, 2)), rng.uniform(2, 32, (count, 2))
    cut = np.concatenate((centre - size / 2, centre + size / 2), 1).clip(0, side)
    return torch.from_numpy(cut[((cut[:, 2:] - cut[:, :2]) >= 2).all(1)]).float()


@pytest.mark.parametrize("margin", [0.0, 3.0, 0.7])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_searched_cells_are_the_anchors_inside(margin, offset):
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = (int(v) for v in rng.integers(1, 330, 2))
        padded = -(-height // 64) * 64, -(-width // 64) * 64
        grid = pyramid(padded)
        grids = grid.inside((height, width), margin).prior_grids
        found = [
            int(grids.base[m] + (y * grids.pitch[m] + x) * grids.step[m])
            for m in range(len(grids.stride))
            for y in range(int(grids.rows[m]))
            for x in range(int(grids.columns[m]))
        ]
        inside = without_outside(grid, (height, width), margin)
        assert sorted(found) == inside.nonzero().flatten().tolist()
        assert grids.num_priors == len(found)
        assert torch.equal(grid.inside((height, width), margin).usable(), inside)


@pytest.mark.parametrize("name", list(FLAT))
@pytest.mark.parametrize("margin", [0.0, 5.0])
def test_equals_the_assignment_of_the_anchors_that_remain(name, margin):
    """The windowed search of the grid, against all pairs of the objects and the anchors inside, as plain boxes."""
    rng, assigner = np.random.default_rng(5), FLAT[name]
    for case in range(12):
        size = (int(rng.integers(24, 200)), int(rng.integers(24, 200)))
        grid = pyramid((-(-size[0] // 64) * 64, -(-size[1] // 64) * 64), ratios=(0.5, 1.0, 2.0) if case % 2 else (1.0,))
        gts = random_gts(rng, int(rng.integers(0, 20)), size)
        inside = without_outside(grid, size, margin)
        assert not bool(inside.all())
        predictions = Predictions(
            grid.boxes() + torch.randn(len(grid), 4, generator=torch.Generator().manual_seed(case)),
            torch.rand(len(grid), 3, generator=torch.Generator().manual_seed(case)),
            torch.zeros(len(gts), dtype=torch.int64),
        )
        rest = Predictions(predictions.boxes[inside], predictions.scores[inside], predictions.gt_classes)
        result = assigner(grid.inside(size, margin), gts, predictions=predictions)
        expected = assigner(grid.boxes()[inside], gts, predictions=rest)
        assert torch.equal(result.labels[inside], expected.labels), (case, size)
        assert torch.equal(result.matched_idxs[inside], expected.matched_idxs), (case, size)
        assert torch.equal(result.quality[inside], expected.quality), (case, size)
        assert (result.labels[~inside] == -1).all()
        assert (result.matched_idxs[~inside] == -1).all()


@pytest.mark.parametrize("seed", range(6))
def test_equals_slow_loops_over_the_anchors_that_remain(seed):
    rng = np.random.default_rng(seed)
    size = (56, 72)
    grid = pyramid(size, strides=(4, 8), ratios=(0.5, 1.0))
    gts = random_gts(rng, int(rng.integers(1, 7)), size)
    inner, inside = grid.inside(size, 0.0), without_outside(grid, size, 0.0)
    rest, rows = grid.boxes()[inside].tolist(), gts.tolist()

    def numbers(assigner):
        return torch.tensor(as_numbers(assigner(inner, gts)))[inside].tolist()

    assert numbers(HLAAssigner()) == slow_hla.assign(rest, rows)
    assert numbers(MaxIoUAssigner(metric="nwd", min_quality=0.3)) == slow.max_iou(rest, rows, "nwd", min_quality=0.3)
    assert numbers(RKAAssigner()) == slow.rka(rest, rows)
    counts = [len(level) for level in grid.level_boxes]
    levels = [boxes[mask].tolist() for boxes, mask in zip(grid.level_boxes, inside.split(counts), strict=True)]
    assert numbers(ATSSAssigner(topk=4)) == slow.atss(levels, rows, k=4)


def test_rules_of_cells_keep_only_those_inside():
    """FCOS and YOLOv5's matching compare no ranks, so that removing before and after is the same."""
    grid, size = points(128), (100, 90)
    gts = boxes([[88, 40, 12, 9], [30, 97, 40, 8], [50, 50, 20, 30]])
    inside = without_outside(grid, size, 0.0)
    for assigner in (FCOSAssigner(), RatioAssigner(max_ratio=9.0)):
        plain, result = assigner(grid, gts), assigner(grid.inside(size, 0.0), gts)
        assert torch.equal(result.labels[inside], plain.labels[inside])
        assert torch.equal(result.matched_idxs[inside], plain.matched_idxs[inside])
        assert (result.labels[~inside] == -1).all()
        assert (plain.labels[~inside] == 1).any()


@pytest.mark.parametrize("assigner", [*FLAT.values(), ATSSAssigner()], ids=repr)
def test_an_image_smaller_than_all_anchors_has_none(assigner):
    grid = pyramid((64, 64))
    none = Predictions(grid.boxes(), torch.full((len(grid), 1), 0.5), torch.zeros(1, dtype=torch.int64))
    result = assigner(grid.inside((8, 8), 0.0), boxes([[4, 4, 5, 5]]), predictions=none)
    assert (result.labels == -1).all()


def test_objects_at_the_border_of_tiles_have_positives():
    """Before, 3.5 % had none; now as many as without removing any anchor: none."""
    rng, side = np.random.default_rng(0), (320, 320)
    grid, assigner = pyramid(side), HLAAssigner()
    inside, after, before, total = without_outside(grid, side, 0.0), 0, 0, 0
    for _ in range(150):
        gts = tile(rng, 8)
        plain = assigner(grid, gts)
        after += len(gts) - len(plain.matched_idxs[(plain.labels == 1) & inside].unique())
        result = assigner(grid.inside(side, 0.0), gts)
        before += len(gts) - len(result.matched_idxs[result.labels == 1].unique())
        total += len(gts)
    assert after / total > 0.03
    assert before == 0


def native_rpn(name):
    """Return the TinyRPN of a native YAML config."""
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_proposal_generator

    cfg = model_zoo.get_cfg(f"configs/yaml/{name}.yaml", device="cpu")
    shape = {f"p{level}": ShapeSpec(channels=256, stride=2**level) for level in range(2, 7)}
    return build_proposal_generator(cfg, shape)


@pytest.mark.parametrize("name", [*CASCADES, "cascade_rcnn_r50_efpnbs_rfla_dcloss", "detectors_r50_efpnbs_rfla_dcloss"])
def test_the_rpn_of_configs_trains_objects_at_every_border(name):
    from detectron2.config import instantiate

    rpn = instantiate(load_config(name).model.proposal_generator) if "/" in name else native_rpn(name)
    assert rpn.anchor_boundary_thresh == 0
    rpn.batch_size_per_image = 10**6
    grid, size = pyramid((320, 320)), (300, 310)
    gts = [[0, 0, 5, 4], [305, 1, 310, 7], [0, 294, 6, 300], [303, 292, 310, 300], [150, 0, 156, 3], [0, 100, 3, 110]]
    labels, matched = rpn.label_and_sample_anchors(grid, [targets(gts, size=size)])
    assert len(matched[0][labels[0] == 1].unique(dim=0)) == len(gts)
    assert bool(without_outside(grid, size, 0.0)[labels[0] >= 0].all())


def test_coverage_removes_them_too():
    """An object as large as the image: its best anchors, 133 px of P4, stick out of 100 px; those of P3 do not."""
    name, gts = CASCADES[0], np.array([[0.0, 0, 100, 100]])
    rest = config_coverage(name, [gts], [(100, 100)])
    everything = config_coverage(name, [gts], [(100, 100)], ["model.proposal_generator.anchor_boundary_thresh=-1"])
    assert not rest.unserved.any()
    assert rest.by_level == (0, 1, 0, 0, 0)
    assert everything.by_level[2] == 1
