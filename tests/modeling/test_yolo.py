"""YOLOX, YOLOv5, YOLO11 and RS-TinyNet: sizes, heads, losses, and images of every kind."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from d2tiny import model_zoo
from d2tiny.config import validate_config
from d2tiny.modeling.assigners import HLAAssigner, SimOTAAssigner, TALAssigner
from d2tiny.modeling.contracts import HeadOutputs
from d2tiny.modeling.dense_heads import YOLO11Head, YOLOv5Head, YOLOXHead
from d2tiny.modeling.dense_heads.common import LevelPredictions, select_detections_by_level
from d2tiny.modeling.dense_heads.yolov5 import YOLOv5BoxCoder
from d2tiny.modeling.dense_heads.yolox import YOLOXBoxCoder
from d2tiny.modeling.losses import DCLoss, IoULoss, SALoss, SmoothL1Loss, dfl_loss
from d2tiny.utils.errors import ConfigError
from tests.helpers.images import item, targets
from tests.helpers.models import YOLO_MODELS, YOLO_PARTS

HOSTS = ("yolox_s", "yolov5_s", "yolo11_n", "rs_tinynet_n")


def count(module):
    return sum(p.numel() for p in module.parameters())


def model_of(host, size, classes):
    """A host in any size."""
    name = host.rsplit("_", 1)[0]
    if name == "rs_tinynet":
        return instantiate(YOLO_PARTS["rs_tinynet"](YOLO_MODELS["yolo11"](size, classes)))
    return instantiate(YOLO_MODELS[name](size, classes))


@pytest.mark.parametrize(
    ("host", "size", "classes", "parameters"),
    [
        ("yolox_s", "s", 80, 8_968_255),
        ("yolox_s", "m", 80, 25_326_495),
        ("yolox_s", "l", 80, 54_208_895),
        ("yolox_s", "s", 8, 8_940_391),
        ("yolox_s", "m", 8, 25_284_807),
        ("yolox_s", "l", 8, 54_153_383),
        ("yolov5_s", "s", 80, 7_235_389),
        ("yolov5_s", "m", 80, 21_190_557),
        ("yolov5_s", "l", 80, 46_563_709),
        ("yolov5_s", "s", 8, 7_041_205),
        ("yolov5_s", "m", 8, 20_899_605),
        ("yolov5_s", "l", 8, 46_175_989),
        ("yolo11_n", "n", 80, 2_624_080),
        ("yolo11_n", "s", 80, 9_458_752),
        ("yolo11_n", "m", 80, 20_114_688),
        ("yolo11_n", "l", 80, 25_372_160),
        ("yolo11_n", "m", 20, 20_068_428),
        ("yolo11_n", "m", 18, 20_066_886),
        ("yolo11_n", "m", 10, 20_060_718),
        ("yolo11_n", "m", 8, 20_059_176),  # the baseline of RS-TinyNet's table III
    ],
)
def test_parameters_are_the_published_ones(host, size, classes, parameters):
    assert count(model_of(host, size, classes)) == parameters


def test_parameters_of_every_layer_of_yolo11m():
    """docs/papers/rs_tinynet.md#yolo11-baseline."""
    model = model_of("yolo11_n", "m", 8)
    stages, neck = model.backbone.backbone, model.backbone.neck
    layers = [count(stages.stem), *(count(layer) for stage in stages.stages.values() for layer in stage)]
    assert layers == [
        1856, 73984, 111872, 590336, 444928, 2360320, 1380352, 2360320, 1380352, 656896, 990976,
    ]  # fmt: skip
    assert [count(b) for b in neck.down_blocks] == [1642496, 542720]
    assert [count(b) for pair in zip(neck.reduce, neck.up_blocks, strict=True) for b in pair] == [
        590336, 1511424, 2360320, 1642496,
    ]  # fmt: skip
    assert count(model.head) == 1417192


@pytest.mark.parametrize(
    ("parts", "ours", "published"),
    [
        ("mdca", 20_059_260, 20_553_992),
        ("arb", 33_808_720, 30_294_440),
        ("pfdh_literal", 21_340_061, 21_339_925),
    ],
)
def test_parameters_of_rs_tinynets_parts(parts, ours, published):
    """Our counts beside table III's, which do not add up; see docs/papers/rs_tinynet.md#published-numbers."""
    model = instantiate(YOLO_PARTS[parts](YOLO_MODELS["yolo11"]("m", 8)))
    assert count(model) == ours
    assert published != ours
    if parts == "arb":
        assert count(model.auxiliary.neck) == 9_886_272
        model.strip_auxiliary()
        assert count(model) == 20_059_176


def batch(objects, size=160):
    """One image with so many objects and one without any."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(objects, 2, generator=generator) * (size - 12)
    boxes = torch.cat((corner, corner + 3 + torch.rand(objects, 2, generator=generator) * 8), 1)
    return [item(boxes.tolist(), (size, size)), item([], (size, size))]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("objects", [0, 1, 2000])
@pytest.mark.parametrize("host", [*HOSTS, "yolox_s_sarl_sal", "yolov5_s_sarl_sal"])
def test_any_number_of_objects_in_both_precisions(host, objects, dtype):
    torch.manual_seed(0)
    model = instantiate(model_zoo.get_config(f"quick/{host}").model).train()
    with EventStorage(0), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
        losses = model(batch(objects))
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    for name, p in model.named_parameters():
        assert not p.requires_grad or torch.isfinite(p.grad).all(), name
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
        found = model(batch(0))
    assert all(torch.isfinite(f["instances"].scores).all() for f in found)


def test_stripping_the_auxiliary_branch_changes_no_output_and_needs_no_weights_of_it():
    torch.manual_seed(0)
    cfg = model_zoo.get_config("quick/rs_tinynet_n").model
    model = instantiate(cfg)
    images = batch(0)

    def bomb(*_):
        raise AssertionError("prediction must not run the auxiliary branch")

    model.train()
    with EventStorage(0):
        assert any(k.startswith("loss_aux_") for k in model(images))
    model.eval()
    model.auxiliary.register_forward_pre_hook(bomb)
    with torch.no_grad():
        before = [f["instances"] for f in model(images)]
        weights = model.state_dict()
        model.strip_auxiliary()
        after = [f["instances"] for f in model(images)]
        bare = instantiate(cfg)
        bare.strip_auxiliary()
        missing = bare.load_state_dict(weights, strict=False)
        again = [f["instances"] for f in bare.eval()(images)]
    assert not missing.missing_keys
    assert all(k.startswith("auxiliary.") for k in missing.unexpected_keys)
    for one, two, three in zip(before, after, again, strict=True):
        assert len(one)
        for other in (two, three):
            assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
            assert torch.equal(one.scores, other.scores)


def test_auxiliary_losses_weigh_a_quarter_and_do_not_change_the_main_ones():
    torch.manual_seed(0)
    model = instantiate(model_zoo.get_config("quick/yolo11_n_arb").model).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    images = batch(20)
    both = model(images)
    model.auxiliary.loss_weight = 1.0
    full = model(images)
    model.strip_auxiliary()
    main = model(images)
    for name, value in main.items():
        torch.testing.assert_close(both[name], value)
        aux = name.replace("loss_", "loss_aux_")
        torch.testing.assert_close(4 * both[aux], full[aux])


# --- box coding and losses by hand ---------------------------------------------------------------------------------


def test_yolox_code_by_hand():
    """Cell (2, 1) of stride 8 starts at (16, 8); p = (½, ¼, ln 2, 0): centre (20, 10), size 16 × 8."""
    prior, delta = torch.tensor([[16.0, 8, 24, 16]]), torch.tensor([[0.5, 0.25, math.log(2), 0.0]])
    box = torch.tensor([[12.0, 6, 28, 14]])
    torch.testing.assert_close(YOLOXBoxCoder().apply_deltas(delta, prior), box)
    torch.testing.assert_close(YOLOXBoxCoder().get_deltas(prior, box), delta)
    assert torch.isfinite(YOLOXBoxCoder().apply_deltas(torch.full((1, 4), 1e4), prior)).all()


def test_yolov5_code_by_hand():
    """Logit 0: middle of the cell, the anchor itself. σ(ln 3) = ¾: shift ½ stride, factor 2¼."""
    coder, anchor = YOLOv5BoxCoder(8), torch.tensor([[8.0, 10, 16, 14]])
    torch.testing.assert_close(coder.apply_deltas(YOLOv5Head.activate(torch.zeros(1, 4)), anchor), anchor)
    box = coder.apply_deltas(YOLOv5Head.activate(torch.full((1, 4), math.log(3))), anchor)
    # centre (12, 12) + 4; sides 8 · 2.25 = 18 and 4 · 2.25 = 9
    torch.testing.assert_close(box, torch.tensor([[7.0, 11.5, 25.0, 20.5]]))
    torch.testing.assert_close(coder.apply_deltas(coder.get_deltas(anchor, box), anchor), box)


def test_yolo11_code_by_hand():
    """All weight on bins 1, 2, 0 and 3: 8, 16, 0 and 24 px from the middle (12, 12) of a cell of stride 8."""
    head = small(YOLO11Head)
    logits = torch.full((4, 16), -50.0)
    logits[torch.arange(4), torch.tensor([1, 2, 0, 3])] = 50.0
    box = head.decode_boxes(logits.view(1, 64), torch.tensor([[8.0, 8, 16, 16]]), 8)
    torch.testing.assert_close(box, torch.tensor([[4.0, -4.0, 12.0, 36.0]]))


def test_distances_stay_precise_under_autocast():
    head, logits = small(YOLO11Head), torch.randn(50, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head.distances(logits), head.distances(logits).float())
        half = head.distances(logits)
    torch.testing.assert_close(half, head.distances(logits))


def test_dfl_by_hand():
    """Distance 1¼ between bins 1 and 2: −(¾ ln p₁ + ¼ ln p₂); uniform gives ln 16; beyond 14.99 is clamped."""
    logits = torch.zeros(3, 4, 16)
    logits[0, :, 1] = math.log(3)  # p₁ = 3/18, the others 1/18
    distance = torch.tensor([[1.25] * 4, [7.5] * 4, [99.0, -5, 0, 15]])
    expected = [-(0.75 * math.log(3 / 18) + 0.25 * math.log(1 / 18)), math.log(16), math.log(16)]
    torch.testing.assert_close(dfl_loss(logits, distance), torch.tensor(expected))
    logits = torch.randn(2, 4, 16, dtype=torch.float64, requires_grad=True)
    distance = torch.rand(2, 4, dtype=torch.float64) * 15
    assert torch.autograd.gradcheck(lambda x: dfl_loss(x, distance), logits)
    assert dfl_loss(torch.zeros(0, 4, 16), torch.zeros(0, 4)).sum() == 0


def small(cls, **kwargs):
    """A head of two classes on one level of stride 8."""
    extra = {
        YOLOXHead: {"width": 8, "assigner": SimOTAAssigner(), "box_loss": IoULoss(kind="iou2")},
        YOLO11Head: {"assigner": TALAssigner(), "box_loss": IoULoss(kind="ciou")},
        YOLOv5Head: {
            "assigner": instantiate(model_zoo.get_config("quick/yolov5_s").model.head.assigner),
            "box_loss": IoULoss(kind="ciou"),
            "anchors": [[[8, 8], [16, 16]]],
            "balance": [4.0],
        },
    }[cls]
    return cls(num_classes=2, in_channels=[8], strides=[8], **(extra | kwargs))


def widths(cls):
    """Channels of class, box and objectness outputs for two classes."""
    return (2, 64) if cls is YOLO11Head else (2, 4, 1)


def logit(p):
    return math.log(p / (1 - p))


def test_yolox_losses_by_hand():
    """Two cells; an object of class 1 that cell 0 predicts exactly, with class score ½ and objectness ¼."""
    head = small(YOLOXHead, l1_weight=1.0)
    priors = head.priors([torch.zeros(1, 8, 1, 2)])
    gt = [targets([[0, 0, 8, 8]], (8, 16))]
    gt[0].gt_classes[:] = 1
    cls = torch.tensor([[[logit(0.1), 0.0], [logit(0.1), logit(0.1)]]])
    box = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [3.0, 3.0, 0.0, 0.0]]])
    obj = torch.tensor([[[logit(0.25)], [logit(0.2)]]])
    outputs = HeadOutputs([cls], [box], [obj])
    expected = head.targets(priors, gt, outputs)
    assert expected.classes.tolist() == [[1, 2]]
    assert expected.quality[0, 0] == 1
    losses = head.losses(outputs, priors, expected)
    assert float(losses["loss_box_reg"]) == pytest.approx(0, abs=1e-6)
    assert float(losses["loss_l1"]) == pytest.approx(0, abs=1e-6)
    assert float(losses["loss_obj"]) == pytest.approx(-math.log(0.25) - math.log(0.8))
    assert float(losses["loss_cls"]) == pytest.approx(-math.log(0.9) - math.log(0.5))
    # ¼ stride to the right: IoU 6/10, so 5 · (1 − .36), and L1 ¼
    outputs.pred_deltas[0][0, 0, 0] = 0.75
    losses = head.losses(outputs, priors, expected)
    assert float(losses["loss_box_reg"]) == pytest.approx(5 * (1 - 0.36))
    assert float(losses["loss_l1"]) == pytest.approx(0.25, abs=1e-6)


def test_yolo11_losses_by_hand():
    """One cell, one object that it predicts exactly with score ¼: target 1, so BCE −ln ¼, and no box loss."""
    head = small(YOLO11Head)
    priors = head.priors([torch.zeros(1, 8, 1, 1)])
    gt = [targets([[0, 0, 8, 8]], (8, 8))]
    gt[0].gt_classes[:] = 0
    logits = torch.full((4, 16), -60.0)
    logits[:, 0] = logits[:, 1] = 60.0  # ½ each: half a stride
    outputs = HeadOutputs([torch.tensor([[[logit(0.25), logit(0.1)]]])], [logits.view(1, 1, 64)])
    expected = head.targets(priors, gt, outputs)
    assert float(expected.quality) == pytest.approx(1)
    losses = head.losses(outputs, priors, expected)
    assert float(losses["loss_cls"]) == pytest.approx(0.5 * (-math.log(0.25) - math.log(0.9)))
    assert float(losses["loss_box_reg"]) == pytest.approx(0, abs=1e-5)
    assert float(losses["loss_dfl"]) == pytest.approx(1.5 * math.log(2))
    # Two images of it: everything is a mean over the targets, × 2 images.
    twice = HeadOutputs(*([torch.cat((o[0], o[0]))] for o in (outputs.pred_logits, outputs.pred_deltas)))
    expected = head.targets(priors, gt * 2, twice)
    for name, value in head.losses(twice, priors, expected).items():
        torch.testing.assert_close(value, 2 * losses[name])


def test_yolov5_losses_by_hand():
    """A cell with two anchors, 8 and 16 px; an object of 8 px matches both (ratio 2) and is predicted by the first."""
    head = small(YOLOv5Head)
    priors = head.priors([torch.zeros(1, 8, 1, 1)])
    gt = [targets([[0, 0, 8, 8]], (8, 8))]
    gt[0].gt_classes[:] = 1
    cls = torch.full((1, 2, 2), logit(0.5))
    outputs = HeadOutputs([cls], [torch.zeros(1, 2, 4)], [torch.full((1, 2, 1), logit(0.5))])
    expected = head.targets(priors, gt, outputs)
    assert expected.prior_idxs.tolist() == [0, 1]
    losses = head.losses(outputs, priors, expected)
    # second anchor: its 16 px box around the object, CIoU = IoU = ¼; mean of 0 and ¾; one level counts three times
    assert float(losses["loss_box_reg"]) == pytest.approx(0.05 * 3 * 0.375, rel=1e-5)
    assert float(losses["loss_cls"]) == pytest.approx(0.5 * 2 / 80 * 3 * math.log(2))
    # BCE of ½ is ln 2 whatever the target; balance 4, size 64 / 640²
    assert float(losses["loss_obj"]) == pytest.approx(4 * 3 * 64 / 640**2 * math.log(2))


def test_yolov5_learns_several_objects_with_one_anchor():
    head = small(YOLOv5Head)
    priors = head.priors([torch.zeros(1, 8, 1, 1)])
    gt = [targets([[0, 0, 8, 8], [1, 1, 7, 7]], (8, 8))]
    outputs = HeadOutputs([torch.zeros(1, 2, 2)], [torch.zeros(1, 2, 4)], [torch.zeros(1, 2, 1)])
    expected = head.targets(priors, gt, outputs)
    assert sorted(expected.prior_idxs.tolist()) == [0, 0, 1, 1]
    swapped = [gt[0][torch.tensor([1, 0])]]
    one, two = (head.losses(outputs, priors, head.targets(priors, g, outputs)) for g in (gt, swapped))
    for name in one:  # the largest CIoU is the target whatever the order
        torch.testing.assert_close(one[name], two[name])


@pytest.mark.parametrize("cls", [YOLOXHead, YOLO11Head, YOLOv5Head])
def test_ignore_regions_are_not_background(cls):
    """Outputs of a cell inside an ignore region do not change the losses."""
    head = small(cls)
    priors = head.priors([torch.zeros(1, 8, 4, 4)])
    image = targets([[0, 0, 8, 8], [16, 16, 32, 32]], (32, 32))
    image.gt_ignore = torch.tensor([False, True])
    torch.manual_seed(0)
    outputs = HeadOutputs(*([torch.randn(1, len(priors), c)] for c in widths(cls)))
    if cls is YOLOv5Head:
        outputs.pred_deltas[0].zero_()
    expected = head.targets(priors, [image], outputs)
    middle = priors.boxes()[:, :2].add(priors.boxes()[:, 2:]).div(2)
    inside = (middle > 16).all(dim=1) & (priors.boxes()[:, 2] - priors.boxes()[:, 0] <= 8)
    assert inside.any()
    before = head.losses(outputs, priors, expected)
    background = outputs.pred_logits if cls is YOLO11Head else outputs.pred_quality
    background[0][0, inside] += 5
    after = head.losses(outputs, priors, expected)
    for name in before:
        torch.testing.assert_close(before[name], after[name])


@pytest.mark.parametrize("region", [[17.0, 17, 19, 19], [23.5, 1, 26, 3], [16, 16, 24, 24]])
def test_tiny_ignore_regions_ignore_the_cell_that_they_lie_in(region):
    """2 px cover nothing of a cell of 8 px by half, but the cell that holds their middle is not background."""
    head = small(YOLOXHead)
    priors = head.priors([torch.zeros(1, 8, 4, 4)])
    image = targets([[0, 0, 8, 8], region], (32, 32))
    image.gt_ignore = torch.tensor([False, True])
    outputs = head([torch.randn(1, 8, 4, 4)])
    classes = head.targets(priors, [image], outputs).classes[0]
    x, y = int((region[0] + region[2]) / 2 // 8), int((region[1] + region[3]) / 2 // 8)
    assert classes[y * 4 + x] == -1
    assert int((classes == -1).sum()) == 1


def test_infinite_boxes_are_no_detections():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0.0, 0, float("inf"), 9]])
    found = select_detections_by_level(
        [LevelPredictions(lambda best: boxes[best], torch.tensor([[0.9], [0.8]]))],
        (32, 32), score_thresh=0.1, nms_thresh=0.5, pre_nms_topk=10, max_detections=10,
    )  # fmt: skip
    assert found.scores.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize("cls", [YOLOXHead, YOLO11Head, YOLOv5Head])
def test_what_is_learned_is_decoded(cls):
    """Gradient steps on the outputs alone find the objects: assigner, losses and decoding agree."""
    torch.manual_seed(0)
    head = small(cls)
    priors = head.priors([torch.zeros(1, 8, 8, 8)])
    boxes = [[10.0, 12, 22, 21], [40, 40, 52, 50], [30, 9, 41, 20]]
    gt = [targets(boxes, (64, 64))]
    gt[0].gt_classes[:] = torch.tensor([0, 1, 0])
    tensors = [torch.zeros(1, len(priors), w, requires_grad=True) for w in widths(cls)]
    with torch.no_grad():
        tensors[0 if cls is YOLO11Head else 2] -= 3
    optimizer = torch.optim.Adam(tensors, lr=0.1)
    outputs = HeadOutputs(*([tensor] for tensor in tensors))
    for _ in range(300):
        losses = head.losses(outputs, priors, head.targets(priors, gt, outputs))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    found = head.decode(outputs, priors, [(64, 64)])[0]
    found = found[found.scores > 0.7]
    assert len(found) == 3
    for box, label in zip(boxes, (0, 1, 0), strict=True):
        error = (found.pred_boxes.tensor - torch.tensor(box)).abs().amax(dim=1)
        assert error.min() < 1.0
        assert found.pred_classes[error.argmin()] == label


@pytest.mark.parametrize("loss", [SmoothL1Loss(), DCLoss(), SALoss(), IoULoss(kind="giou"), SALoss(l1_weight=1.0)])
@pytest.mark.parametrize("cls", [YOLOXHead, YOLO11Head, YOLOv5Head])
def test_any_box_loss(cls, loss):
    head = small(cls, box_loss=loss)
    features = [torch.randn(2, 8, 8, 8)]
    gt = [targets([[10, 12, 22, 21]], (64, 64)), targets([], (64, 64))]
    outputs = head(features)
    priors = head.priors(features)
    total = sum(head.losses(outputs, priors, head.targets(priors, gt, outputs)).values())
    total.backward()
    assert torch.isfinite(total)


def test_static_assigners_work_too():
    head = small(YOLOXHead, assigner=HLAAssigner(metric="kld"))
    features = [torch.randn(1, 8, 8, 8)]
    gt, outputs, priors = [targets([[10, 12, 22, 21]], (64, 64))], head(features), head.priors(features)
    expected = head.targets(priors, gt, outputs)
    assert (expected.classes < 2).any()
    assert torch.isfinite(sum(head.losses(outputs, priors, expected).values()))


def test_what_cannot_work_is_refused():
    for setting in ({"score_thresh": 2.0}, {"nms_thresh": -1.0}, {"max_detections": 0}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            small(YOLOXHead, **setting)
    with pytest.raises(ConfigError, match=r"no size 'x'. Valid: l, m, s"):
        YOLO_MODELS["yolox"]("x", 8)
    cfg = model_zoo.get_config("quick/rs_tinynet_n", ["model.auxiliary.neck.in_features=[c2,c3,c4]"]).model
    with pytest.raises(ValueError, match=r"head.strides=\[8, 16, 32\], but the levels"):
        instantiate(cfg)
    with pytest.raises(ConfigError, match="follows from"):
        model_zoo.get_config("quick/rs_tinynet_n", ["model.auxiliary.neck.in_channels=[8,16,32]"])
    with pytest.raises(ValueError, match="use RatioAssigner"):
        small(YOLOv5Head, assigner=TALAssigner())
    with pytest.raises(ValueError, match="levels of anchors"):
        small(YOLOv5Head, anchors=[[[4, 4]], [[8, 8]]])
    with pytest.raises(ValueError, match="positive px"):
        small(YOLOv5Head, anchors=[[[4, 0]]])
    cfg = model_zoo.get_config("quick/yolox_s").model
    cfg.head.in_channels = [64, 256, 512]
    with pytest.raises(ValueError, match=r"in_channels=\[64, 256, 512\].*\[128, 256, 512\]"):
        instantiate(cfg)
    cfg.head.in_channels, cfg.head.strides = [128, 256, 512], [4, 8, 16]
    with pytest.raises(ValueError, match=r"strides=\[4, 8, 16\].*\[8, 16, 32\]"):
        instantiate(cfg)
    cfg = model_zoo.get_config("quick/yolox_s", ["dataloader.test.mapper.image_format=RGB"])
    with pytest.raises(ConfigError, match=r"test.mapper.image_format='RGB' but model.input_format='BGR'"):
        validate_config(cfg, datasets=False)


@pytest.mark.parametrize("host", ["yolox_s", "yolov5_s", "yolo11_n"])
@pytest.mark.parametrize("parts", [["p2"], ["arb"], ["mdca", "p2"], ["mdca", "pfdh", "p2", "arb"], ["sarl", "p2"]])
def test_every_part_on_every_host(host, parts):
    model = model_zoo.get_config(f"quick/{host}").model
    OmegaConf.set_struct(model, False)
    for part in parts:
        YOLO_PARTS[part](model)
    model = instantiate(model).train()
    with EventStorage(0):
        losses = model(batch(5, 64))
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if "p2" in parts:
        assert model.head.strides == [4, 8, 16, 32]


@pytest.mark.parametrize("host", ["yolox_lite0", "yolo11_lite0"])
@pytest.mark.parametrize("parts", [["arb", "p2"], ["sarl", "p2", "mdca", "pfdh", "arb"]])
def test_every_part_on_a_backbone_of_timm(host, parts):
    model = YOLO_MODELS[host](5)
    OmegaConf.set_struct(model, False)
    for part in parts:
        YOLO_PARTS[part](model)
    assert (model.input_format, model.pixel_mean, model.pixel_std) == ("RGB", [127.0] * 3, [128.0] * 3)
    model = instantiate(model).train()
    with EventStorage(0):
        losses = model(batch(5, 64))
    sum(losses.values()).backward()
    # ImageNet's parts of level res2 are trained too, since p2 asks for it
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert model.auxiliary.neck.in_features == ("res3", "res4", "res5")
    assert model.head.strides == [4, 8, 16, 32]
    width = 64 if host == "yolo11_lite0" else 128
    assert [layer.conv.out_channels if hasattr(layer, "conv") else None for layer in model.auxiliary.neck.stem][:2] in (
        [width // 4, width // 2],
        [None, None],
    )


def gradient_norm(part):
    """Norm of the gradient of an untrained YOLO11n with a part."""
    torch.manual_seed(0)
    model = YOLO_MODELS["yolo11"]("n", 8)
    model = instantiate(YOLO_PARTS[part](model) if part else model).train()
    with EventStorage(0):
        sum(model(batch(20)).values()).backward()
    return float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm())


def test_pfdh_as_the_paper_shows_it_multiplies_the_gradient_and_a_skip_round_it_does_not():
    """docs/papers/rs_tinynet.md#why-the-chain-loses."""
    alone = gradient_norm("")
    assert gradient_norm("pfdh_literal") > 4 * alone
    assert alone / 2 < gradient_norm("pfdh") < 2 * alone


PARTS = ["p2", "sarl", "sal", "l1", "mdca", "pfdh", "pfdh_literal", "arb", "tiny_candidates"]


def model_with(host, parts):
    """The config of a model with parts, or the message of the error."""
    model = YOLO_MODELS[host](*{"yolox": ("s", 8), "yolov5": ("s", 8), "yolo11": ("n", 8)}[host])
    try:
        for part in parts:
            model = YOLO_PARTS[part](model)
    except ConfigError as err:
        return str(err)
    return OmegaConf.to_container(model)


@pytest.mark.parametrize("host", ["yolox", "yolov5", "yolo11"])
def test_the_order_of_parts_does_not_matter(host):
    """All pairs in both orders give the same model; a part that a host does not take, or twice, is refused."""
    for one, two in itertools.combinations(PARTS, 2):
        first, second = model_with(host, [one, two]), model_with(host, [two, one])
        if isinstance(first, str):
            assert isinstance(second, str)
            alone = [model_with(host, [part]) for part in (one, two)]
            assert first in alone or {one, two} == {"pfdh", "pfdh_literal"}
        else:
            assert first == second, (one, two)
    for part in {"p2", "sarl", "mdca", "pfdh", "arb"}:
        assert "already" in model_with(host, [part, part]), part


def test_the_fourth_level_goes_through_the_relay_whatever_the_order():
    for parts in (["sarl", "p2"], ["p2", "sarl"]):
        model = instantiate(OmegaConf.create(model_with("yolox", parts), flags={"allow_objects": True}))
        assert model.backbone.backbone.neck.in_features == ("c2", "c3", "c4", "c5")


def test_hosts_that_do_not_take_a_part():
    assert "only TAL" in model_with("yolox", ["tiny_candidates"])
    assert "head of YOLOX" in model_with("yolov5", ["l1"])
    fcos = model_zoo.get_config("quick/fcos_r18_p2_rfla").model
    with pytest.raises(ConfigError, match="sarl: needs a model with a PAFPN"):
        YOLO_PARTS["sarl"](fcos)


def test_sal_has_l1_in_yolox_and_yolov5():
    """Eq. 3; l1 alone is the fair baseline."""
    assert model_with("yolox", ["sal"])["head"]["l1_weight"] == 1
    assert model_with("yolox", ["l1"])["head"]["l1_weight"] == 1
    assert model_with("yolov5", ["sal"])["head"]["box_loss"]["l1_weight"] == 1
    assert model_with("yolox", ["arb", "sal"])["auxiliary"]["head"]["l1_weight"] == "${...head.l1_weight}"


def test_what_is_set_in_the_main_head_holds_for_the_auxiliary_one():
    overrides = ["model.head.assigner.topk=5", "model.head.box_loss.kind=giou", "model.head.num_classes=3"]
    model = instantiate(model_zoo.get_config("quick/rs_tinynet_n", overrides).model)
    for head in (model.head, model.auxiliary.head):
        assert (head.assigner.topk, head.box_loss.kind, head.num_classes) == (5, "giou", 3)
    assert model.head.box_loss is not model.auxiliary.head.box_loss
