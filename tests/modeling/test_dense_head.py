"""FCOS and RetinaNet: assignment, targets, losses, decoding."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage

from d2tiny import model_zoo
from d2tiny.modeling.assigners import FCOSAssigner, HLAAssigner
from d2tiny.modeling.contracts import HeadOutputs
from d2tiny.modeling.dense_heads.dense_head import centerness
from d2tiny.modeling.losses import DCLoss, IoULoss, NWDLoss, SALoss, SmoothL1Loss
from tests.helpers.boxes import points
from tests.helpers.images import item, targets
from tests.helpers.models import narrow


def slow_fcos(priors, gts, radius):
    """One point and one object at a time, in float64."""
    boxes, strides = priors.boxes().double(), priors.boxes().double()[:, 2] - priors.boxes().double()[:, 0]
    matched = []
    for box, stride in zip(boxes.tolist(), strides.tolist(), strict=True):
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        best = (float("inf"), -1)
        for g, (x1, y1, x2, y2) in enumerate(gts.double().tolist()):
            sides = [x - x1, y - y1, x2 - x, y2 - y]
            near = [x2 - x1, y2 - y1]
            if radius:
                off = [abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)]
                if max(off) >= radius * stride:
                    continue
            low = -1 if stride == strides.min() else 4 * stride
            high = float("inf") if stride == strides.max() else 8 * stride
            if min(sides) > 0 and low < max(sides) <= high:
                best = min(best, (near[0] * near[1], g))
        matched.append(best[1])
    return torch.tensor(matched)


@pytest.mark.parametrize("radius", [0.0, 1.5])
@pytest.mark.parametrize("seed", range(6))
def test_fcos_equals_a_slow_loop(radius, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(25, 2, generator=generator) * 120
    gts = torch.cat((corner, corner + 2 + torch.rand(25, 2, generator=generator) ** 3 * 150), 1)
    priors = points()
    for given in (priors, priors.boxes()):
        result = FCOSAssigner(center_radius=radius)(given, gts)
        assert result.matched_idxs.tolist() == slow_fcos(priors, gts, radius).tolist()
        assert torch.equal(result.labels == 1, result.matched_idxs >= 0)


def test_the_smaller_object_wins_however_close_the_areas():
    """Areas 1,600 and 1,599.2 px²: under 1e8 − area in float32 both would be the same (grid of 8)."""
    gts = torch.tensor([[20.0, 20, 60, 60], [20.0, 20, 60, 59.98]])
    matched = FCOSAssigner()(points(), gts).matched_idxs
    assert set(matched[matched >= 0].tolist()) == {1}


def test_assignment_does_not_depend_on_the_order_of_images():
    """The released head shrinks one tensor again for each image."""
    head = instantiate(narrow(model_zoo.get_config("aitod/fcos_r50_p2_rfla_1x")).model.head)
    priors = head.priors([torch.zeros(1, 1, 32 >> i, 32 >> i) for i in range(5)], assign=True)
    images = [targets([[10, 10, 18, 17]], (128, 128)), targets([[50, 40, 61, 47]], (128, 128))]
    there, back = head.targets(priors, images), head.targets(priors, images[::-1])
    assert torch.equal(there.classes, back.classes.flip(0))
    assert torch.equal(there.boxes, back.boxes.flip(0))


def test_centerness_by_hand():
    """l, t, r, b = 2, 3, 6, 3: √(2/6 · 1); outside (l = −1, r = 9): √(0.01/9 · 1)."""
    found = centerness(torch.tensor([[2.0, 3.0], [-1.0, 3.0]]), torch.tensor([[0.0, 0, 8, 6], [0.0, 0, 8, 6]]))
    torch.testing.assert_close(found, torch.tensor([(2 / 6) ** 0.5, (0.01 / 9) ** 0.5]))


def test_receptive_fields_lie_around_the_points():
    for name, sides in (("p2", [17.5, 45.5, 133.5, 213.5, 277.5]), ("p3", [45.5, 133.5, 213.5, 277.5, 405.5])):
        head = instantiate(narrow(model_zoo.get_config(f"aitod/fcos_r50_{name}_rfla_1x")).model.head)
        maps = [torch.zeros(1, 1, 16 >> i, 16 >> i) for i in range(5)]
        fields, squares = head.priors(maps, assign=True), head.priors(maps)
        for field, square, side in zip(fields.level_boxes, squares.level_boxes, sides, strict=True):
            assert float(field[0, 2] - field[0, 0]) == pytest.approx(side, abs=2e-3)
            torch.testing.assert_close(field[:, :2] + field[:, 2:], square[:, :2] + square[:, 2:])
        assert isinstance(head.assigner, HLAAssigner)


def perfect(head, maps, objects):
    """Outputs equal to the targets."""
    priors = head.priors(maps)
    expected = head.targets(head.priors(maps, assign=True), [objects])
    anchors, positive = priors.boxes(), (expected.classes[0] >= 0) & (expected.classes[0] < head.num_classes)
    logits = torch.full((1, len(priors), head.num_classes), -12.0)
    logits[0, positive, expected.classes[0, positive]] = 12.0
    boxes = torch.where(positive[:, None], expected.boxes[0], anchors)
    deltas = head.box2box_transform.get_deltas(anchors, boxes)[None]
    sizes = [len(level) for level in priors.level_boxes]
    tensors = [logits, deltas]
    if head.assign_generator is not None:
        tensors.append(torch.full((1, len(priors), 1), 9.0))
    return HeadOutputs(*(list(o.split(sizes, dim=1)) for o in tensors)), priors, expected


@pytest.mark.parametrize("name", ["fcos_r50_p2_rfla_1x", "retinanet_r50_fpn_rfla_1x"])
def test_what_is_learned_is_decoded(name):
    """Predictions equal to the targets give the objects back, and nothing to learn in boxes and classes."""
    head = instantiate(narrow(model_zoo.get_config(f"aitod/{name}")).model.head)
    boxes = [[10.0, 12, 22, 21], [60, 60, 90, 82], [100, 20, 111, 33]]
    maps = [torch.zeros(1, 1, max(32 >> i, 1), max(32 >> i, 1)) for i in range(5)]
    outputs, priors, expected = perfect(head, maps, targets(boxes, (128, 128)))
    with EventStorage(0):
        losses = head.losses(outputs, priors, expected)
    assert float(losses["loss_cls"]) < 1e-3
    # a point outside its object (RFLA allows it) cannot say so with distances that are never negative
    assert float(losses["loss_box_reg"]) < (0.3 if "fcos" in name else 1e-4)
    (found,) = head.decode(outputs, priors, [(128, 128)])
    for box, cls in zip(boxes, range(3), strict=True):
        error = (found.pred_boxes.tensor - torch.tensor(box)).abs().amax(dim=1)
        assert bool(((error < 1e-2) & (found.pred_classes == cls)).any()), box


@pytest.mark.parametrize("loss", [DCLoss(), IoULoss(kind="giou"), NWDLoss(), SALoss(stat_mode="image"), SmoothL1Loss()])
@pytest.mark.parametrize("name", ["fcos_r50_p3_1x", "retinanet_r50_fpn_maxiou_1x"])
def test_any_loss_on_any_batch(name, loss):
    model = instantiate(narrow(model_zoo.get_config(f"aitod/{name}")).model)
    model.head.box_loss = loss
    ignored = item([[10, 10, 18, 17], [30, 40, 36, 47]], ignore=[False, True])
    for batch in ([ignored, item([[50, 20, 61, 33]])], [ignored, item([])], [item([]), item([])]):
        total = sum(model(batch).values())
        total.backward()
        assert bool(torch.isfinite(total))
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_ignore_regions_are_not_background():
    head = instantiate(narrow(model_zoo.get_config("aitod/retinanet_r50_fpn_rfla_1x")).model.head)
    priors = head.priors([torch.zeros(1, 1, 16, 16)] + [torch.zeros(1, 1, 2, 2)] * 4)
    expected = head.targets(priors, [targets([[0, 0, 128, 128]], (128, 128), [True])])
    assert bool((expected.classes == -1).any())
    assert not bool((expected.classes == 0).any())
