"""What assigners can serve: by hand, and against the assigners themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from omegaconf import OmegaConf

from d2tiny.analysis import coverage as coverage_module
from d2tiny.analysis.coverage import config_coverage
from d2tiny.config import load_config
from d2tiny.modeling.assigners import MaxIoUAssigner
from d2tiny.modeling.priors import grid_from_generator
from d2tiny.utils.errors import ConfigError
from tests.helpers.coco import truth


@pytest.fixture
def one_anchor(monkeypatch):
    """Two levels with one square anchor each, 8 px at stride 8 and 16 px at stride 16; positive from IoU 0.5 on."""

    def use(**assigner):
        parts = {
            "anchor_generator": {
                "_target_": DefaultAnchorGenerator,
                "sizes": [[8], [16]],
                "aspect_ratios": [1.0],
                "strides": [8, 16],
                "offset": 0.5,
            },
            "assigner": {"_target_": MaxIoUAssigner, "pos_iou": 0.5, "neg_iou": 0.3, "low_quality": False, **assigner},
        }
        cfg = OmegaConf.create({"model": {"proposal_generator": parts}}, flags={"allow_objects": True})
        monkeypatch.setattr(coverage_module, "load_config", lambda *a: cfg)

    return use


def test_coverage_by_hand(one_anchor):
    """Anchors of 8 px tile the image exactly, those of 16 px too.

    (8, 8, 16, 16) is an anchor of stride 8: IoU 1 there; on stride 16 64 / 256 = 0.25. (0, 0, 16, 16) is one of
    stride 16. (12, 12, 20, 20) lies between four anchors: IoU 16 / 112 = 0.14. (0, 0, 16, 8) has 64 / 128 = 0.5 with
    two small ones; the large one has 0.5 with it too, but 1 with the former. (40, 40, 44, 44) has 16 / 64 = 0.25.
    """
    one_anchor()
    images = [
        np.array([[8.0, 8, 16, 16], [12, 12, 20, 20]]),
        np.zeros((0, 4)),
        np.array([[0.0, 0, 16, 16], [0, 0, 16, 8], [40, 40, 44, 44]]),
    ]
    found = config_coverage("mine", images, [(64, 32), (64, 32), (50, 50)])
    assert (found.name, found.strides, found.objects) == ("mine", (8, 16), 5)
    assert found.by_level == (2, 1)
    assert found.unserved.tolist() == [False, True, False, False, True]
    one_anchor(low_quality=True)
    found = config_coverage("mine", images, [(64, 32), (64, 32), (50, 50)])
    assert found.unserved.tolist() == [False] * 5


def test_coverage_of_nothing(one_anchor):
    one_anchor()
    for boxes, sizes in (([], []), ([np.zeros((0, 4))], [(64, 32)])):
        found = config_coverage("mine", boxes, sizes)
        assert (found.objects, found.by_level, found.unserved.tolist()) == (0, (0, 0), [])
    gt = truth([], images=0)
    config_coverage("mine", gt.boxes_by_image(), [(int(w), int(h)) for w, h in gt.sizes])


@pytest.mark.parametrize("name", ["faster_rcnn_r18_fpn_maxiou", "faster_rcnn_r18_fpn_rfla"])
def test_coverage_equals_the_assigner(name):
    """Image by image with the materialised anchors, for objects whose annotations are interleaved."""
    config = f"quick/{name}"
    rng = np.random.default_rng(0)
    objects = [(int(i), 1, *rng.uniform(0, 60, 2), *rng.uniform(0.5, 60, 2)) for i in rng.integers(1, 5, 40)]
    gt = truth(objects, images=5, size=(130, 90))
    found = config_coverage(config, gt.boxes_by_image(), [(130, 90)] * 5)
    part = load_config(config, []).model.proposal_generator
    generator, assigner = instantiate(part.anchor_generator), instantiate(part.assigner)
    strides = [4, 8, 16, 32, 64]
    maps = [torch.zeros(1, 1, -(-96 // s), -(-160 // s)) for s in strides]  # 130 × 90 padded to 160 × 96
    anchors = grid_from_generator(generator, maps)
    level = torch.cat([torch.full((len(b),), i) for i, b in enumerate(anchors.level_boxes)])
    by_level, served = np.zeros(5, int), np.zeros(len(gt), bool)
    for image in range(5):
        mine = np.flatnonzero(gt.image == image)
        boxes = torch.tensor(gt.boxes[mine]).float()
        boxes[:, 2:] += boxes[:, :2]
        result = assigner(anchors, boxes)
        for j, index in enumerate(mine):
            hit = level[(result.labels == 1) & (result.matched_idxs == j)].unique()
            by_level[hit.numpy()] += 1
            served[index] = len(hit) > 0
    assert found.strides == tuple(strides)
    assert found.by_level == tuple(by_level)
    assert found.objects == len(gt) == 40
    order = np.argsort(gt.image, kind="stable")
    assert found.unserved.tolist() == (~served[order]).tolist()
    assert sum(found.by_level) >= found.objects - found.unserved.sum()


def test_coverage_names_a_config_without_assigner(monkeypatch):
    monkeypatch.setattr(coverage_module, "load_config", lambda *a: OmegaConf.create({"model": {}}))
    with pytest.raises(ConfigError, match=r"mine has no model\.proposal_generator with anchors"):
        config_coverage("mine", [], [])


@pytest.mark.slow
@pytest.mark.parametrize("config", ["aitod/faster_rcnn_r50_fpn_maxiou_1x", "aitod/faster_rcnn_r50_fpn_rfla_1x"])
def test_windows_of_a_large_image_give_the_same(monkeypatch, config):
    """1500 × 1300 px in steps of 512 px: objects across, on and beside the borders of windows and of the image."""
    rng = np.random.default_rng(0)
    centres = np.concatenate((rng.uniform(0, (1500, 1300), (150, 2)), rng.integers(0, 3, (60, 2)) * 512.0))
    sides = rng.uniform(2, 60, (210, 2))
    boxes = np.concatenate((centres - sides / 2, centres + sides / 2), axis=1)
    expected = config_coverage(config, [boxes], [(1500, 1300)])
    monkeypatch.setattr(coverage_module, "_WHOLE", 1000)
    monkeypatch.setattr(coverage_module, "_WINDOW", 512)
    found = config_coverage(config, [boxes], [(1500, 1300)])
    assert found.by_level == expected.by_level
    assert np.array_equal(found.unserved, expected.unserved)
    assert sum(found.by_level) > 0


def test_large_objects_are_not_cut_by_windows(monkeypatch, one_anchor):
    one_anchor(low_quality=True)
    boxes = [np.array([[10.0, 10, 890, 500], [3, 3, 11, 11]])]
    expected = config_coverage("mine", boxes, [(900, 600)])
    monkeypatch.setattr(coverage_module, "_WHOLE", 1000)
    assert config_coverage("mine", boxes, [(900, 600)]).by_level == expected.by_level
