"""TinyRPN and the ROI heads inside a narrow Faster R-CNN."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.proposal_generator.rpn import RPN
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

from d2tiny.modeling.assigners import HLAAssigner, MaxIoUAssigner
from d2tiny.modeling.losses import DCLoss, IoULoss, SmoothL1Loss
from d2tiny.modeling.roi_heads import select_detections
from d2tiny.modeling.targets import split_ignored
from tests.helpers.images import item, targets
from tests.helpers.models import config

QUICK = "quick/faster_rcnn_r18_fpn_rfla"
STRIDES = (4, 8, 16, 32, 64)


def rpn(assigner=None, loss=None):
    node = config(QUICK).model.proposal_generator
    generator = instantiate(node)
    generator.assigner = assigner or HLAAssigner()
    generator.box_loss = loss or SmoothL1Loss()
    return generator


def pyramid(size=(64, 96), batch=2):
    return {f"p{i + 2}": torch.randn(batch, 64, -(-size[0] // s), -(-size[1] // s)) for i, s in enumerate(STRIDES)}


def images(size=(64, 96), batch=2):
    return ImageList(torch.zeros(batch, 3, *size), [size] * batch)


@pytest.mark.parametrize("assigner", [HLAAssigner(), MaxIoUAssigner(), HLAAssigner(metric="giou")], ids=repr)
@pytest.mark.parametrize("loss", [SmoothL1Loss(), IoULoss(kind="ciou"), DCLoss(learnable="bounded")], ids=repr)
def test_any_assigner_with_any_loss(assigner, loss):
    generator = rpn(assigner, loss).train()
    gts = [targets([[10, 10, 19, 17], [40, 30, 46, 35]]), targets([])]
    with EventStorage(0):
        proposals, losses = generator(images(), pyramid(), gts)
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    assert all(p.grad is not None for p in generator.parameters())
    assert len(proposals) == 2


def test_rpn_equals_detectron2_with_its_own_assignment():
    """The same labels and weights give the same losses and proposals as Detectron2's RPN, to float rounding."""
    ours = rpn(MaxIoUAssigner()).train()
    ours.batch_size_per_image = 100_000  # no sampling, so nothing is random
    ours.positive_fraction = 1.0
    from detectron2.modeling.matcher import Matcher

    stock = RPN(
        in_features=ours.in_features,
        head=ours.rpn_head,
        anchor_generator=ours.anchor_generator,
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=ours.box2box_transform,
        batch_size_per_image=100_000,
        positive_fraction=1.0,
        pre_nms_topk=(1000, 1000),
        post_nms_topk=(300, 300),
    ).train()
    features = pyramid()
    gts = [targets([[10, 10, 30, 29], [40, 30, 52, 45]]), targets([[3, 5, 20, 20]])]
    with EventStorage(0):
        p1, l1 = ours(images(), features, gts)
        p2, l2 = stock(images(), features, gts)
    for key in l1:
        torch.testing.assert_close(l1[key], l2[key])
    for a, b in zip(p1, p2, strict=True):
        torch.testing.assert_close(a.objectness_logits, b.objectness_logits)
        torch.testing.assert_close(a.proposal_boxes.tensor, b.proposal_boxes.tensor, atol=1e-3, rtol=0)


def test_ignored_anchors_are_not_sampled():
    generator = rpn().train()
    generator.batch_size_per_image = 100_000
    region = [0.0, 0, 48, 64]
    gts = targets([[70, 20, 80, 30], region], ignore=[False, True])
    from d2tiny.modeling.priors import grid_from_generator

    grid = grid_from_generator(generator.anchor_generator, list(pyramid().values()))
    labels, boxes = generator.label_and_sample_anchors(grid, [gts])
    inside = (grid.boxes()[:, 2] <= 48) & (grid.boxes()[:, 0] >= 0) & (grid.boxes()[:, 1] >= 0)
    inside &= grid.boxes()[:, 3] <= 64
    assert inside.any()
    assert (labels[0][inside] == -1).all()
    assert (labels[0] == 1).sum() >= 3
    assert torch.equal(boxes[0][labels[0] == 1].unique(dim=0), torch.tensor([[70.0, 20, 80, 30]]))


def test_boundary_threshold_drops_anchors_outside():
    generator = rpn().train()
    generator.anchor_boundary_thresh = 0.0
    from d2tiny.modeling.priors import grid_from_generator

    grid = grid_from_generator(generator.anchor_generator, list(pyramid().values()))
    labels, _ = generator.label_and_sample_anchors(grid, [targets([[10, 10, 20, 20]])])
    sampled = grid.boxes()[labels[0] >= 0]
    assert (sampled[:, :2] >= 0).all()
    assert (sampled[:, 2] <= 96).all()


def test_nan_in_training_is_an_error():
    generator = rpn().train()
    features = {k: v * float("nan") for k, v in pyramid().items()}
    with EventStorage(0), pytest.raises(FloatingPointError):
        generator(images(), features, [targets([]), targets([])])


def test_split_ignored():
    objects, regions = split_ignored(targets([[0, 0, 4, 4], [8, 8, 20, 20]], ignore=[False, True]))
    assert objects.gt_boxes.tensor.tolist() == [[0, 0, 4, 4]]
    assert regions.tolist() == [[8, 8, 20, 20]]
    objects, regions = split_ignored(targets([[0, 0, 4, 4]]))
    assert len(objects) == 1
    assert regions.shape == (0, 4)


def model(overrides=()):
    torch.manual_seed(0)
    return instantiate(config(QUICK, overrides).model)


@pytest.mark.parametrize(
    "batch",
    [
        [item([[10, 10, 18, 17]]), item([])],
        [item([]), item([])],
        [item([[5, 5, 40, 40]], ignore=[True]), item([[5, 5, 40, 40], [50, 50, 58, 57]], ignore=[True, False])],
        [item([[-50, -50, 300, 300]])],
    ],
    ids=["half-empty", "empty", "ignore", "larger-than-image"],
)
@pytest.mark.parametrize("bf16", [False, True])
def test_training_step_touches_every_parameter(batch, bf16):
    net = model().train()
    with EventStorage(0), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        losses = net(batch)
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert not [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]


def test_roi_heads_do_not_sample_ignored_proposals():
    heads = model().roi_heads.train()
    proposals = Instances((64, 96))
    proposals.proposal_boxes = Boxes(torch.tensor([[2.0, 2, 12, 12], [60, 40, 70, 50], [70, 10, 80, 20]]))
    proposals.objectness_logits = torch.zeros(3)
    gts = targets([[70, 10, 80, 20], [0, 0, 40, 40]], ignore=[False, True])
    with EventStorage(0):
        (sampled,) = heads.label_and_sample_proposals([proposals], [gts])
    kept = sorted(sampled.proposal_boxes.tensor.tolist())
    # the first proposal lies in the region; the object itself is appended
    assert kept == [[60, 40, 70, 50], [70, 10, 80, 20], [70, 10, 80, 20]]
    assert sorted(sampled.gt_classes.tolist()) == [0, 0, 8]


def test_select_detections_by_hand():
    """Two overlapping boxes of a class (IoU 0.68), one of another class, one under the threshold, one NaN."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [0, 0, 10, 10], [90, 50, 120, 80], [float("nan")] * 4])
    scores = torch.tensor([[0.9, 0.0, 0.1], [0.8, 0.0, 0.2], [0.0, 0.7, 0.3], [0.04, 0.0, 0.9], [0.9, 0.9, 0.0]])
    result, rows = select_detections(boxes, scores, (64, 96), 0.05, 0.5, 100)
    assert rows.tolist() == [0, 2]
    assert result.pred_classes.tolist() == [0, 1]
    assert result.scores.tolist() == pytest.approx([0.9, 0.7])
    result, _ = select_detections(boxes, scores, (64, 96), 0.01, 0.5, 100)
    assert result.pred_boxes.tensor[-1].tolist() == [90, 50, 96, 64]  # clipped
    result, _ = select_detections(boxes, scores, (64, 96), 0.01, 0.5, 1)
    assert len(result) == 1


def test_inference_returns_up_to_the_limit():
    net = model(["model.roi_heads.box_predictor.test_score_thresh=0.0"]).eval()
    with torch.no_grad():
        (output,) = net([{"image": torch.randint(0, 255, (3, 128, 128), dtype=torch.uint8)}])
    assert 100 < len(output["instances"]) <= 1500


def test_no_proposals_give_no_detections():
    for classes in (4, 32):
        result, rows = select_detections(torch.zeros(0, classes), torch.zeros(0, 9), (64, 96), 0.05, 0.5, 100)
        assert len(result) == len(rows) == 0


def test_boxes_are_pooled_at_full_precision_under_autocast():
    """Features that hold their own x coordinate: a box at x ≈ 700 must pool ≈ 700/4, though bfloat16 has steps of 4."""
    heads = model().roi_heads.eval()
    pooled = []
    heads.box_head.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
    x = torch.arange(256.0).expand(1, 64, 32, 256)
    features = {f"p{i + 2}": x[..., :: 2**i, :: 2**i].bfloat16() for i in range(4)}
    features["p2"] = x  # exact, as the finest level would be in float32
    proposals = Instances((128, 1024))
    proposals.proposal_boxes = Boxes(torch.tensor([[698.0, 20.0, 706.0, 28.0]]))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        heads(None, features, [proposals])
    assert float(pooled[0].float().mean()) == pytest.approx(702 / 4 - 0.5, abs=0.1)
    features["p2"] = x.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        heads(None, features, [proposals])
    # the features are coarse now (steps of 1), but the box still lies where it was
    assert float(pooled[1].float().mean()) == pytest.approx(702 / 4 - 0.5, abs=0.5)
