"""Masks of E-FPN-BS: what they should show, how they are judged, and that they can be taught."""

from __future__ import annotations

import math
import runpy

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from d2tiny.config import load_config
from d2tiny.modeling.meta_arch import TinyGeneralizedRCNN
from d2tiny.modeling.meta_arch.foreground import area_under_roc, foreground, foreground_loss
from d2tiny.modeling.necks import EFPNBS
from d2tiny.utils.errors import ConfigError
from tests.helpers import ROOT
from tests.helpers.models import narrow


def image(*boxes, ignore=(), size=(32, 32)):
    result = Instances(size)
    result.gt_boxes = Boxes(torch.tensor([*boxes, *ignore], dtype=torch.float32).reshape(-1, 4))
    result.gt_ignore = torch.tensor([False] * len(boxes) + [True] * len(ignore), dtype=torch.bool)
    result.gt_classes = torch.zeros(len(result.gt_boxes), dtype=torch.int64)
    return result


def test_cells_whose_centre_is_in_an_object():
    inside, valid = foreground([image([8, 4, 16, 12]), image()], stride=4, size=(8, 8))
    assert inside[0].nonzero().tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    assert not inside[1].any()
    assert valid.all()


def test_an_object_between_centres_has_the_cell_of_its_own():
    inside, _ = foreground([image([8.5, 4.5, 9.5, 5.5], [31.9, 31.9, 32, 32])], stride=4, size=(8, 8))
    assert inside[0].nonzero().tolist() == [[1, 2], [7, 7]]


def test_ignore_regions_and_padding_do_not_count_but_objects_in_them_do():
    inside, valid = foreground([image([0, 0, 4, 4], ignore=[[0, 0, 16, 8]], size=(32, 20))], stride=4, size=(8, 8))
    assert inside[0].nonzero().tolist() == [[0, 0]]
    assert bool(valid[0, 0, 0]) and not valid[0, :2, 1:4].any()
    assert valid[0, 2:, :5].all() and not valid[0, :, 5:].any()


def test_loss_weighs_objects_and_background_alike():
    mask = torch.tensor([[[[0.8, 0.4], [0.4, 0.4]]]])
    inside = torch.tensor([[[True, False], [False, False]]])
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    expected = -0.5 * (math.log(0.8) + math.log(0.6))
    assert math.isclose(float(foreground_loss(mask, inside, valid)), expected, rel_tol=1e-6)
    assert float(foreground_loss(mask, inside & ~valid, valid & False)) == 0.0


def test_area_under_roc_counts_pairs():
    generator = torch.Generator().manual_seed(0)
    positive = torch.randint(0, 9, (40,), generator=generator)
    negative = torch.randint(0, 8, (70,), generator=generator)
    pairs = [(p > n) + 0.5 * (p == n) for p in positive.tolist() for n in negative.tolist()]
    assert math.isclose(area_under_roc(positive, negative), sum(pairs) / len(pairs))
    assert math.isnan(area_under_roc(positive[:0], negative))


@pytest.mark.parametrize("settings", [{}, {"residual": True}, {"light": True}])
def test_supervised_masks_find_objects(settings):
    torch.manual_seed(0)
    neck = EFPNBS(channels=16, mid_channels=8, mask_loss_weight=1.0, **settings)
    objects = [image([20, 20, 34, 34], [60, 70, 72, 80], size=(96, 96)) for _ in range(2)]
    inside, valid = foreground(objects, stride=4, size=(24, 24))
    features = {f"p{i}": torch.randn(2, 16, 96 >> i, 96 >> i) for i in range(2, 7)}
    features["p2"][:, 0] += 2 * inside
    optimizer = torch.optim.Adam(neck.parameters(), lr=5e-3)
    for _ in range(60):
        neck(features)
        optimizer.zero_grad()
        foreground_loss(neck.masks["p2"], inside, valid).backward()
        optimizer.step()
    mask = neck.masks["p2"].detach()[:, 0]
    assert area_under_roc(mask[inside], mask[~inside]) > 0.9


def test_detector_trains_and_watches_masks():
    cfg = narrow(load_config("quick/faster_rcnn_r18_efpnbs_rfla", ["model.backbone.neck.mask_loss_weight=0.5"]))
    model = instantiate(cfg.model).train()
    assert isinstance(model, TinyGeneralizedRCNN)
    objects = image([20, 20, 34, 34], size=(64, 64))
    batch = [{"image": torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8), "instances": objects}]
    with EventStorage() as storage:
        losses = model(batch)
        assert 0 <= storage.latest()["mask_auc_p2"][0] <= 1
        model.backbone.neck.mask_loss_weight = 0.0
        assert "loss_mask_p2" not in model(batch)
    losses["loss_mask_p2"].backward()
    gate = model.backbone.neck.fbsm["p2"].gate_low
    assert gate[0].weight.grad.any()


def test_masks_are_drawn_beside_their_image():
    scope = runpy.run_path(str(ROOT / "tools" / "draw_masks.py"))
    model = instantiate(narrow(load_config("quick/faster_rcnn_r18_efpnbs_rfla")).model).eval()
    picture = np.random.default_rng(0).integers(0, 255, (96, 64, 3), dtype=np.uint8)
    drawn = scope["draw"](model, picture, np.array([[20.0, 30.0, 30.0, 44.0]]))
    assert drawn.shape[0] > 2 * 96 and drawn.shape[1] == 2 * (2 * 64 + 4)
    neck = model.backbone.neck
    assert not neck.training and not neck.masks
    plain = instantiate(narrow(load_config("quick/faster_rcnn_r18_fpn_rfla")).model).eval()
    with pytest.raises(ConfigError, match="no E-FPN-BS with masks"):
        scope["draw"](plain, picture, np.zeros((0, 4)))
