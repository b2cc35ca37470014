"""Pictures of a training: when they are made, what they show, and that training does not notice."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, TensorboardXWriter

from d2tiny.visualization import QUERY_COLOR, class_color
from tests.helpers.images import item
from tests.helpers.models import config, narrow, small

BOXES = [[10, 10, 18, 17], [30, 40, 36, 47]]


def dense(name, **changes):
    cfg = narrow(config(f"quick/{name}", [f"model.{key}={value}" for key, value in changes.items()]))
    torch.manual_seed(0)
    return instantiate(cfg.model)


def train(model, iterations=1, batch=None):
    """Return pictures as (title, (H, W, 3), iteration), and the losses of the last iteration."""
    model.train()
    with EventStorage(0) as storage:
        for _ in range(iterations):
            torch.manual_seed(1)
            losses = model(batch or [item(BOXES), item([])])
            storage.step()
        return [(name, picture.transpose(1, 2, 0), i) for name, picture, i in storage._vis_data], losses


def colored(picture, color):
    return int((picture == color).all(-1).sum())


@pytest.mark.parametrize("build", [lambda p: small(vis_period=p), lambda p: dense("fcos_r18_p2_rfla", vis_period=p)])
def test_a_picture_every_n_iterations_of_the_main_process(build, monkeypatch):
    model = build(2)
    assert sorted({i for _, _, i in train(model, 5)[0]}) == [0, 2, 4]
    assert not train(build(0), 2)[0]
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert not train(model)[0]


@pytest.mark.parametrize("name", ["scalebridge_r18", "fcos_r18_p2_rfla", "yolox_s"])
def test_training_does_not_notice(name):
    """Losses and gradients are those without pictures, to the last bit."""
    results = []
    for period in (0, 1):
        model = small(name, vis_period=period) if name.startswith("scale") else dense(name, vis_period=period)
        pictures, losses = train(model)
        assert bool(pictures) == bool(period)
        sum(losses.values()).backward()
        results.append([*losses.values(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for plain, drawn in zip(*results, strict=True):
        assert torch.equal(plain, drawn)


def test_ground_truth_is_left_and_detections_are_right():
    """64x96 px are enlarged four times; an ignore region is no object; padding of the other image is left out."""
    model = small("scalebridge_r18", vis_period=1)
    first = item([*BOXES, [50, 5, 90, 60]], ignore=[False, False, True])
    first["image"] = torch.zeros_like(first["image"])
    pictures, _ = train(model, batch=[first, item(BOXES, (128, 160))])
    (title, picture, _), (queries, density, _) = pictures
    assert title == "Left: ground truth; right: best detections"
    left, right = picture[: 64 * 4, : 96 * 4], picture[: 64 * 4, -96 * 4 :]
    for index, (x1, y1, x2, y2) in enumerate(BOXES):
        assert colored(left, class_color(index)) == 2 * 4 * (x2 - x1 + y2 - y1) + 4
    assert colored(left, class_color(2)) == 0
    assert right.any()
    assert queries == "Where queries start, on the density of objects"
    assert density.shape == (64, 96, 3)
    assert colored(density, QUERY_COLOR)


def test_colours_of_the_image_come_in_the_order_of_rgb():
    blue = item([])
    blue["image"] = torch.zeros(3, 64, 96, dtype=torch.uint8)
    blue["image"][0] = 200
    for build in (lambda: small(vis_period=1, input_format="BGR"), lambda: dense("yolox_s", vis_period=1)):
        model = build()
        model.input_format = "BGR"
        picture = train(model, batch=[blue])[0][0][1]
        assert colored(picture[: 64 * 4, : 96 * 4], (0, 0, 200)) == 64 * 4 * 96 * 4


def test_tensorboard_gets_them(tmp_path):
    model = small(vis_period=1).train()
    with EventStorage(0) as storage:
        model([item(BOXES)])
        writer = TensorboardXWriter(str(tmp_path))
        writer.write()
        writer.close()
        assert not storage._vis_data
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert content.count(b"PNG") == 2
    for title in (b"ground truth", b"Where queries start"):
        assert title in content


def test_a_wrong_period_is_refused():
    with pytest.raises(ValueError, match="vis_period=-1"):
        small(vis_period=-1)
    with pytest.raises(ValueError, match="vis_period=-1"):
        dense("fcos_r18_p2_rfla", vis_period=-1)
