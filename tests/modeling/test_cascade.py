"""TinyCascadeROIHeads: stages, weights, ignore regions."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from d2tiny import model_zoo
from d2tiny.modeling.losses import SALoss
from tests.helpers.images import targets
from tests.helpers.models import narrow


def heads(**changes):
    torch.manual_seed(0)
    cfg = narrow(model_zoo.get_config("aitod/cascade_rcnn_r50_fpn_maxiou_1x")).model.roi_heads
    cfg.update(changes)
    return instantiate(cfg)


def features():
    generator = torch.Generator().manual_seed(0)
    return {f"p{i}": torch.randn(1, 32, 128 >> i, 128 >> i, generator=generator) for i in range(2, 6)}


def proposals(boxes):
    result = Instances((128, 128))
    result.proposal_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.objectness_logits = torch.zeros(len(result.proposal_boxes))
    return [result]


BOXES = [[10.0, 10, 22, 21], [60, 60, 72, 75], [11, 9, 24, 22], [90, 20, 99, 31]]
OBJECTS = targets([[10, 10, 22, 22], [61, 61, 73, 75]], size=(128, 128))


def losses(module, objects=OBJECTS):
    torch.manual_seed(0)
    with EventStorage(0):
        return module.train()(None, features(), proposals(BOXES), [objects])[1]


def test_stages_are_weighted():
    plain, weighted = losses(heads(stage_loss_weights=[1.0, 1.0, 1.0])), losses(heads())
    assert set(weighted) == {f"{kind}_stage{i}" for kind in ("loss_cls", "loss_box_reg") for i in range(3)}
    for i, weight in enumerate((1.0, 0.5, 0.25)):
        for kind in ("loss_cls", "loss_box_reg"):
            name = f"{kind}_stage{i}"
            torch.testing.assert_close(weighted[name], weight * plain[name])


def test_gradient_of_the_features_can_be_scaled():
    """A third of the gradient with three stages."""
    grads = []
    for scaled in (False, True):
        maps = {k: v.requires_grad_() for k, v in features().items()}
        torch.manual_seed(0)
        with EventStorage(0):
            found = heads(scale_gradient=scaled).train()(None, maps, proposals(BOXES), [OBJECTS])[1]
        sum(found.values()).backward()
        grads.append(maps["p2"].grad)
    torch.testing.assert_close(grads[1], grads[0] / 3)


def test_boxes_in_ignore_regions_are_not_trained():
    """A stage drops what matches nothing there; what matches an object stays."""
    module = heads().train()
    objects = targets([[10, 10, 22, 22], [50, 50, 80, 80]], size=(128, 128), ignore=[False, True])
    with EventStorage(0):
        (found,) = module._match_and_label_boxes(proposals([*BOXES, [12, 12, 24, 24]]), 1, [objects])
    assert found.proposal_boxes.tensor.tolist() == [BOXES[0], BOXES[2], BOXES[3], [12, 12, 24, 24]]
    # IoU with the object: 0.92, 0.75 (> 0.6), 0, 100 / 188 = 0.53 (< 0.6)
    assert found.gt_classes.tolist() == [0, 0, 8, 8]


@pytest.mark.parametrize("objects", [targets([], size=(128, 128)), targets([[1, 1, 9, 9]], (128, 128), [True])])
def test_images_without_objects(objects):
    found = losses(heads(), objects)
    assert all(bool(torch.isfinite(v)) for v in found.values())
    assert float(sum(found.values())) > 0


def test_any_loss_in_any_stage():
    module = heads()
    module.box_predictor[1].box_loss = SALoss(l1_weight=1.0)
    found = losses(module)
    assert bool(torch.isfinite(sum(found.values())))


def test_scores_are_the_mean_over_the_stages():
    module = heads().eval()
    for stage, predictor in enumerate(module.box_predictor):
        torch.nn.init.zeros_(predictor.cls_score.weight)
        torch.nn.init.zeros_(predictor.bbox_pred.weight)
        predictor.cls_score.bias.data = torch.tensor([2.0 * stage] + [0.0] * 8)
    with torch.no_grad():
        (found,), _ = module(None, features(), proposals(BOXES[:1]))
    expected = sum(torch.tensor([2.0 * s] + [0.0] * 8).softmax(0)[0] for s in range(3)) / 3
    best = found[found.pred_classes == 0]
    torch.testing.assert_close(best.scores, expected[None])
    torch.testing.assert_close(best.pred_boxes.tensor, torch.tensor(BOXES[:1]))


def test_mistakes():
    with pytest.raises(ValueError, match="each stage needs one"):
        heads(stage_loss_weights=[1.0])
    cfg = narrow(model_zoo.get_config("aitod/cascade_rcnn_r50_fpn_maxiou_1x")).model.roi_heads
    cfg.box_predictors[1].cls_agnostic_bbox_reg = False
    with pytest.raises(ValueError, match="cls_agnostic_bbox_reg=True"):
        instantiate(cfg)
