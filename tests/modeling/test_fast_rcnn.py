"""The box predictor: Detectron2's losses and statistics with any box loss, and nothing kept between calls."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from d2tiny.modeling.losses import SALoss, SmoothL1Loss
from d2tiny.modeling.roi_heads import TinyFastRCNNOutputLayers

NUM_CLASSES = 3


def predictor(cls, agnostic, **kwargs):
    return cls(
        ShapeSpec(channels=8),
        box2box_transform=Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)),
        num_classes=NUM_CLASSES,
        cls_agnostic_bbox_reg=agnostic,
        loss_weight={"loss_box_reg": 2.0},
        **kwargs,
    )


def proposals(sizes=(6, 0, 5), seed=0):
    """Sampled proposals of three images; the last has no objects and therefore no ``gt_boxes``."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for i, count in enumerate(sizes):
        corner = torch.rand(count, 2, generator=generator) * 50
        boxes = torch.cat((corner, corner + 4 + torch.rand(count, 2, generator=generator) * 8), dim=1)
        image = Instances((64, 64), proposal_boxes=Boxes(boxes))
        image.gt_classes = torch.randint(0, NUM_CLASSES + 1, (count,), generator=generator)
        if i < 2:
            image.gt_boxes = Boxes(boxes + torch.randn(count, 4, generator=generator))
        else:
            image.gt_classes[:] = NUM_CLASSES
        result.append(image)
    return result


@pytest.mark.parametrize("agnostic", [False, True])
def test_losses_and_statistics_are_detectron2s(agnostic):
    torch.manual_seed(0)
    theirs = predictor(FastRCNNOutputLayers, agnostic)
    ours = predictor(TinyFastRCNNOutputLayers, agnostic, box_loss=SmoothL1Loss())
    ours.load_state_dict(theirs.state_dict())
    batch = proposals()
    features = torch.randn(sum(len(p) for p in batch), 8)
    results = []
    for layers in (theirs, ours):
        with EventStorage(0) as storage:
            losses = layers.losses(layers(features), batch)
        results.append((losses, {name: value for name, (value, _) in storage.latest().items()}))
    (expected, statistics), (actual, ours_statistics) = results
    assert list(actual) == list(expected)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name])
    assert statistics == ours_statistics and "fast_rcnn/cls_accuracy" in statistics


def test_losses_with_statistics_of_an_image_are_told_the_images():
    """Areas of another image do not change the weights of this one."""
    torch.manual_seed(0)
    layers = predictor(TinyFastRCNNOutputLayers, True, box_loss=SALoss(stat_mode="image"))
    first, second = proposals((4,), seed=1)[0], proposals((4,), seed=2)[0]
    for image in (first, second):
        image.gt_classes[:] = 0
    larger = copy.deepcopy(second)
    larger.gt_boxes = Boxes(second.gt_boxes.tensor * 8)
    before = dict(vars(layers))

    def box_loss(batch):
        deltas = torch.zeros(sum(len(p) for p in batch), 4)
        scores = torch.zeros(len(deltas), NUM_CLASSES + 1)
        with EventStorage(0):
            return layers.losses((scores, deltas), batch)["loss_box_reg"] * len(deltas)

    alone, with_other = box_loss([first]), box_loss([first, larger]) - box_loss([larger])
    torch.testing.assert_close(alone, with_other)
    assert {k: v for k, v in vars(layers).items() if not k.startswith("_")} == {
        k: v for k, v in before.items() if not k.startswith("_")
    }
