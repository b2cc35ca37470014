"""Batches without any contrast, as nodata tiles are: one constant image a process."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from torch import nn

from d2tiny.engine.trainer import Trainer
from d2tiny.layers.contrast import has_contrast, norms_for
from tests.helpers.images import item, targets
from tests.helpers.models import config, narrow

HOSTS = (
    *("yolox_s", "yolox_s_sarl", "yolov5_s", "yolo11_n", "yolo11_n_p2", "yolo11_n_arb", "yolo11_n_mdca"),
    *("yolo11_n_pfdh", "rs_tinynet_n", "fcos_r18_p2_rfla", "retinanet_r18_fpn_rfla", "faster_rcnn_r18_fpn_rfla"),
    *("cascade_rcnn_r18_fpn_rfla", "detectors_r18_rfp_rfla", "dino_r18", "dino_r18_dgq", "dino_r18_rem"),
    "scalebridge_r18",
)


def host(name):
    torch.manual_seed(0)
    return instantiate(narrow(config(f"quick/{name}")).model)


def constant(value, boxes, size=(64, 96)):
    """Return an entry of a batch: an image of one grey value."""
    image = torch.full((3, *size), value, dtype=torch.uint8)
    return {"image": image, "instances": targets(boxes, size), "height": size[0], "width": size[1]}


FAST = ("yolox_s", "yolo11_n", "rs_tinynet_n", "dino_r18")  # for `make test-fast`


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in HOSTS])
def test_losses_and_gradients_are_finite(name):
    """Before, black images stopped YOLO11, YOLOX and RS-TinyNet: 1 / √ε in each of tens of batch norms."""
    for value, boxes in ((0, []), (0, [[10, 10, 19, 17]]), (114, [[10, 10, 19, 17]]), (255, [])):
        model = host(name).train()
        with EventStorage(0):
            total = sum(model([constant(value, boxes)]).values())
        total.backward()
        assert bool(torch.isfinite(total))
        for parameter, tensor in model.named_parameters():
            assert tensor.grad is None or bool(torch.isfinite(tensor.grad).all()), (parameter, value)
            assert tensor.grad is not None or not tensor.requires_grad, parameter


@pytest.mark.parametrize("name", ["yolo11_n", "yolox_s"])
def test_a_training_goes_on(name):
    """Black tiles, with and without objects, among others; the statistics are those of the others."""
    model = host(name)
    batches = [[constant(0, [])], [item([[10, 10, 19, 17]])], [constant(0, [[10, 10, 19, 17]])]] * 2
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=1e-3), seed=0, device="cpu", clip_norm=10.0)
    trainer.set_data_iterator(iter(batches))
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(len(batches)):
            before = {k: v.clone() for k, v in model.named_buffers() if "running" in k}
            trainer.run_step()
            same = all(torch.equal(v, before[k]) for k, v in model.named_buffers() if "running" in k)
            assert same == (trainer.iter % 3 != 1)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert all(m.training for m in model.modules())


def test_contrast():
    black, grey = torch.zeros(3, 4, 5), torch.full((3, 7, 2), 9.0)
    assert not has_contrast([black, black[:, :2]])
    assert not has_contrast([torch.tensor([1, 2, 3]).view(3, 1, 1).expand(3, 4, 4)])  # one colour
    assert has_contrast([black, grey])
    spot = black.clone()
    spot[2, 3, 4] = 1
    assert has_contrast([spot])
    assert has_contrast([black, spot])


def test_only_the_training_norms_of_this_process_change():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3).eval(), nn.SyncBatchNorm(3), nn.GroupNorm(1, 3))
    black = torch.zeros(3, 4, 4)
    with norms_for(model, [black]):
        assert [m.training for m in model] == [False, False, True, True]
    assert [m.training for m in model] == [True, False, True, True]
    with pytest.raises(RuntimeError, match="inside"), norms_for(model, [black]):
        raise RuntimeError("inside")
    assert [m.training for m in model] == [True, False, True, True]
    with norms_for(model, [torch.rand(3, 4, 4)]):
        assert [m.training for m in model] == [True, False, True, True]
